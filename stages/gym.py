"""Rows of reasoning-gym's tasks (an optional package, see docs/gym.md), for the reward `gym`."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from grpo.errors import UserError
from rewards.gym import DRAW_SECONDS, NoReply, ask, try_gold

log = logging.getLogger("grpo")
TEST_SHARE = 5  # one question in so many is the test's
ENOUGH = 1000  # entries without a new question: there are no more
TRIED = 20  # golds that are not paid, and are most: none may be trusted
UNSTABLE = {"time_intervals": "its rows hold the day on which they are made"}


def rows(
    tasks: Mapping[str, Mapping[str, Any] | None],
    n: int,
    split: str = "train",
    seed: int = 0,
    share: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Different questions of the tasks in turn, each {question, answer, task, config, metadata}.

    A question is of one split alone, by a hash of its text, whatever `n`, `seed` and options it was drawn with.

    Args:
        tasks: reasoning-gym's names, each with its options.
        n: how many rows in all; fewer are the first of more.
        split: train or test.
        seed: which questions, and their order.
        share: how often a task comes, relative to the others; equally often if not given.

    Raises:
        UserError: something here does not exist, a task has too few questions, or its scorer is not to be trusted.
    """
    weights = dict.fromkeys(tasks, 1.0) if share is None else share
    if not tasks or n < 1 or weights.keys() != tasks.keys() or min(weights.values()) <= 0:
        raise UserError(
            "stages.gym: give tasks, n of at least 1, and in share, if at all, a number above 0 of each task"
        )
    if split not in ("train", "test"):
        raise UserError(f"stages.gym: split is train or test, not '{split}'")
    seen: set[str] = set()
    sources = {name: _questions(name, dict(options or {}), split, seed, seen) for name, options in tasks.items()}
    given, found = dict.fromkeys(tasks, 0), []
    for _ in range(n):
        name = min(tasks, key=lambda task: (given[task] + 1) / weights[task])
        row = next(sources[name], None)
        if row is None:
            few = f"task '{name}' has only {given[name]} different questions of split {split}"
            raise UserError(f"stages.gym: {few}: ask for fewer, or give it options that make more")
        given[name] += 1
        found.append(row)
    return found


def _questions(task: str, options: dict[str, Any], split: str, seed: int, seen: set[str]) -> Iterator[dict[str, Any]]:
    """Rows whose gold the reward pays and whose question is new and of the split; each split has seeds of its own."""
    if task in UNSTABLE:
        raise UserError(f"stages.gym: task '{task}' cannot be used: {UNSTABLE[task]}")
    where, start = (task, json.dumps(options)), _number(f"{task} {seed}") % 2**30 + 2**31 * (split == "test")
    found, unpaid, fruitless = 0, 0, 0
    for block in itertools.count():
        drawn = ask(where, DRAW_SECONDS, seed=start, block=block)
        if drawn is None:
            raise UserError(f"stages.gym: task '{task}' takes too long, or too much memory, to make rows")
        for entry in drawn:
            fruitless += 1
            question = " ".join(entry["question"].casefold().split())  # as the check for leaks compares
            if question in seen or (_number(question) % TEST_SHARE == 0) != (split == "test"):
                continue
            seen.add(question)
            problem = _problem(where, json.dumps({"answer": entry["answer"], "metadata": entry["metadata"]}))
            if not problem:
                found, fruitless = found + 1, 0
                yield {**entry, "task": task, "config": options}
                continue
            unpaid += 1
            if unpaid == 1 and found:
                log.warning("stages.gym: such rows are left out: %s", problem)
            if unpaid >= TRIED and unpaid > found:
                raise UserError(f"stages.gym: {problem}: the task cannot be used")
        if fruitless >= ENOUGH:
            return


def _problem(where: tuple[str, str], entry: str) -> str:
    """Of a row's gold; a row is not left out because the machine was busy: the same rows are made at every call."""
    for _ in range(3):
        try:
            return try_gold(where, entry)
        except NoReply as error:
            reply = str(error)
    raise UserError(f"stages.gym: {reply}, three times: is the machine that busy, or the task so large?")


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
