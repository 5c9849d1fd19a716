r"""The scorers of reasoning-gym (optional, see docs/gym.md) as a reward, for the rows of `stages.gym`.

The answer is untrusted: it is judged in a worker process, within two seconds of CPU time and four GiB.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from grpo.errors import UserError, nearest
from rewards.accuracy.extraction import Strict, extract_answer
from rewards.accuracy.reward import check_places
from rewards.accuracy.workers import ask_worker
from rewards.turns import turns

WORKER = Path(__file__).with_name("gym_worker.py")
SECONDS, DRAW_SECONDS = 2.0, 300.0  # of CPU time: to judge one answer, to make some rows
NONSENSE = ("No idea.", "nan", "0")
_UNDO = [
    (re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|texttt|operatorname)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}"), r"\1/\2"),
    (re.compile(r"\\(?:left|right)(?![a-zA-Z])|\\[,!;:]|\^?\{?\\circ\}?"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\times(?![a-zA-Z]) ?"), "×"),
    (re.compile(r"\\([ {}$%#&_])"), r"\1"),
]


def gym_reward(
    completions: Sequence[Any],
    answer: Sequence[Any],
    task: Sequence[str],
    metadata: Sequence[Any],
    config: Sequence[Any] | None = None,
    prompts: Sequence[Any] | None = None,
    prefill: Sequence[str | None] | None = None,
    *,
    strict: Strict = False,
    anywhere: bool = False,
    threshold: float = 1.0,
    log_error: Callable[[int, str], None] | None = None,
) -> list[float | None]:
    r"""The score that the task's own scorer gives, None where it does not even give the gold 1.

    Args:
        completions: strings, or lists of messages whose last one is read.
        answer: the golds.
        task: names of reasoning-gym's tasks.
        metadata: what the scorers read beside the gold.
        config: the options that the tasks were made with.
        prompts: with `prefill`, whether the template opened the thinking, which has no answer until it ends.
        prefill: likewise.
        strict: where the answer is read, as the reward `accuracy` has it.
        anywhere: likewise.
        threshold: a lower score counts 0. Many scorers give a little for any text, or for a near miss: below 1, a
            wrong answer may be paid, and more of them counted right by an evaluation.
        log_error: given by the scoring layer, takes (row, reason).

    Raises:
        UserError: reasoning-gym is not installed, or an option has no such value.
    """
    check_places("gym", strict, anywhere)
    if not 0 <= threshold <= 1:
        raise UserError(f"reward 'gym': threshold is a score between 0 and 1, not {threshold}")
    check_installed()
    scores: list[float | None] = []
    columns = zip(turns(completions, prompts, prefill), task, config or [{}] * len(task), answer, metadata, strict=True)
    for row, (turn, name, options, gold, data) in enumerate(columns):
        where, entry = (name, json.dumps(options or {})), json.dumps({"answer": gold, "metadata": data})
        problem = gold_problem(where, entry)
        if problem and log_error is not None:
            log_error(row, problem)
        found = None if problem else extract_answer(turn, strict, anywhere)
        score = max(_scores(where, entry, forms(found)) or [0.0]) if found is not None else 0.0
        scores.append(None if problem else score if score >= threshold else 0.0)
    return scores


def forms(answer: str) -> tuple[str, ...]:
    r"""The answer as it stands, and without the LaTeX that a box asks for: \text{ }, {,}, \frac{ }{ }."""
    plain = answer.strip().strip("$")
    for pattern, replacement in _UNDO:
        plain = pattern.sub(replacement, plain)
    return tuple(dict.fromkeys((answer, plain.strip())))


class NoReply(Exception):
    """The scorer had to be killed while a gold was tried: nothing that a cache keeps."""


def gold_problem(where: tuple[str, str], entry: str) -> str:
    r"""Why a reward by this entry would teach nothing true; empty: it is fine. The gold is read out of a box."""
    try:
        return try_gold(where, entry)
    except NoReply as error:
        return str(error)


@functools.lru_cache(10_000)
def try_gold(where: tuple[str, str], entry: str) -> str:
    """As `gold_problem`.

    Raises:
        NoReply: the scorer had to be killed, which says nothing of the gold.
    """
    gold = json.loads(entry)["answer"]
    boxed = extract_answer(f"\\boxed{{{gold}}}", True) if isinstance(gold, str) else None
    if boxed is None:
        return f"task '{where[0]}': the gold {gold!r:.80} cannot be said in a box"
    try:
        right, wrong = (_scores(where, entry, answers) for answers in (forms(boxed), NONSENSE))
    except UserError as error:
        return str(error)
    if right is None or wrong is None:
        raise NoReply(f"task '{where[0]}': its scorer did not answer in time while its gold {gold!r:.80} was tried")
    if max(right) < 1:
        return f"task '{where[0]}': its scorer gives its own gold {gold!r:.80} only {max(right):g}"
    paid = [text for text, score in zip(NONSENSE, wrong, strict=False) if score == 1 and not _alike(text, gold)]
    return f"task '{where[0]}': its scorer gives {paid[0]!r} 1, too, where the gold is {gold!r:.80}" if paid else ""


def _alike(text: str, gold: str) -> bool:
    try:
        return float(text) == float(gold)
    except ValueError:
        return text == gold


def _scores(where: tuple[str, str], entry: str, answers: tuple[str, ...]) -> list[float] | None:
    found: list[float] | None = ask(where, SECONDS, entry=json.loads(entry), answers=answers)
    return found


def ask(where: tuple[str, str], seconds: float, **question: Any) -> Any:
    """What the worker says, None when it had to be killed.

    Raises:
        UserError: reasoning-gym is not installed, there is no such task, or its options do not fit.
    """
    check_installed()
    reply = ask_worker(WORKER, {"task": where[0], "config": where[1], **question}, seconds)
    said = None if reply == "died" else json.loads(reply)
    if isinstance(said, dict):
        hint = f" '{said['word']}'{nearest(said['word'], said['of'])}" if "word" in said else ""
        raise UserError(f"reasoning-gym: {said['error']}{hint}")
    return said


def check_installed() -> None:
    """
    Raises:
        UserError: reasoning-gym is not.
    """
    if importlib.util.find_spec("reasoning_gym") is None:
        raise UserError("reasoning-gym is not installed: pip install -c constraints.txt -e '.[reasoning-gym]'")
