"""What `grpo new` sees in rows and in a model: what the rows are for, which columns hold what, how long they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grpo.config.data import DataConfig, RewardConfig
from grpo.data.layouts import ANSWERED, ASKED, BESIDE, PROMPT_COLUMNS, SYSTEM, THOUGHTS, read_prompt
from grpo.data.prompts import GOLD_COLUMNS, ID_COLUMNS, build_prompts, canonical_answer, own_answer
from grpo.data.rows import Row
from grpo.errors import UserError, one_line
from rewards.accuracy.reward import gold_is_parseable
from rewards.code.tests import read_tests
from rewards.countdown import read_problem
from rewards.loader import find_reward
from rewards.rows import GRADING
from stages.check.subject import BaseModel

LOOKED_AT = 2000  # rows, evenly spread
MOST = 1024  # tokens of a completion, unless the model has fewer positions
LEAST = 64  # tokens of a completion for which too long prompts are dropped instead
READ = {  # the names of columns that mean something to those who read rows
    *PROMPT_COLUMNS, *ASKED, *ANSWERED, *GOLD_COLUMNS, *ID_COLUMNS, *SYSTEM, *BESIDE, *THOUGHTS, "history", "tools",
    "text", "tests", "numbers", "nums", "target", "chosen", "rejected", "label",
}  # fmt: skip
BOXED = "Reason step by step inside <think> </think>, then put the final answer within \\boxed{}."
PLAIN = f"A question and its answer. {BOXED}\nQuestion: {{prompt}}\nAnswer:"  # for a model without a chat template


@dataclass(frozen=True)
class Asks:
    """Rows of prompts, and what judges their completions."""

    data: DataConfig
    rewards: tuple[RewardConfig, ...]
    said: tuple[str, ...]  # of each reward
    column: str  # of the prompt
    gold: str  # an example of how a gold is read; empty: none is
    opens: bool  # the template writes <think>
    longest: int
    dropped: int  # prompts that are longer than `data.max_prompt_tokens`
    max_tokens: int


def some(rows: Sequence[Row]) -> list[Row]:
    """All of them, or so many that are evenly spread."""
    return [rows[i * len(rows) // LOOKED_AT] for i in range(LOOKED_AT)] if len(rows) > LOOKED_AT else list(rows)


def in_capitals(rows: Sequence[Row]) -> dict[str, str]:
    """{name it is read under: column} of columns such as `Problem`: all that mean something, so that of a question in
    `Question` the passage in `Body` is not lost. The readers themselves know nothing of it: a recipe says it."""
    have = dict.fromkeys(name for row in rows for name in row)
    plain = Counter(name.strip().lower() for name in have)
    return {
        name.strip().lower(): name
        for name in have
        if name not in READ and name.strip().lower() in READ and plain[name.strip().lower()] == 1
    }


def rewards_for(rows: Sequence[Row], named: Sequence[str]) -> list[tuple[RewardConfig, str]]:
    """(reward, why) of those named, or of what the columns hold; none where they hold nothing to judge by."""
    if named:
        return [(RewardConfig(fn=name), "as asked for") for name in named]
    if _readable(rows, lambda row: read_tests(row["tests"])):
        return [(RewardConfig(fn="code"), "runs the tests of the column tests, in a sandbox")]
    if _readable(rows, lambda row: read_problem(row.get("numbers", row.get("nums")), row["target"])):
        return [(RewardConfig(fn="countdown"), "an expression of these numbers that has the value of target")]
    golds = [value for value in map(canonical_answer, rows) if value is not None]
    read = sum(map(gold_is_parseable, golds))
    if 2 * read > len(rows):
        return [(RewardConfig(fn="accuracy"), f"{read} of the {len(rows)} golds looked at can be read")]
    return []


def _readable(rows: Sequence[Row], read: Any) -> bool:
    """Whether most rows hold what `read` reads."""
    good = 0
    for row in rows:
        try:
            read(row)
            good += 1
        except (KeyError, ValueError, TypeError, UserError):
            pass
    return 2 * good > len(rows)


def asks(data: DataConfig, rows: Sequence[Row], chosen: list[tuple[RewardConfig, str]], model: BaseModel) -> Asks:
    """How these rows are asked and judged.

    Raises:
        UserError: a row is no prompt, the template refuses it, or none is short enough for the model.
    """
    tokenizer, bare = model.tokenizer, not getattr(model.tokenizer, "chat_template", None)
    thinks = _keeps(tokenizer, "<think>") and _keeps(tokenizer, "</think>")
    boxes = any(getattr(find_reward(spec)[1], "func", find_reward(spec)[1]) in GRADING for spec, _ in chosen)
    told = "boxed" in str(rows[0]) or "<think>" in str(rows[0])
    ask = BOXED if thinks else BOXED.replace(" inside <think> </think>", "")
    template = PLAIN.replace(BOXED, ask if boxes else "").replace(". \n", ".\n") if bare else None
    suffix = f"\n{ask}" if boxes and not told and not bare else ""
    data = data.model_copy(update={"template": template, "suffix": suffix})
    prompts = build_prompts(list(rows), data, tokenizer)
    if boxes and thinks:
        chosen = [*chosen, (RewardConfig(fn="format", weight=0.5), "<think> ... </think>, then the answer")]
    limit, dropped, room = _lengths(sorted(len(prompt.token_ids) for prompt in prompts), model.positions)
    gold = next((row for row in rows if canonical_answer(row) is not None), None) if boxes else None
    return Asks(
        data.model_copy(update={"max_prompt_tokens": limit}),
        tuple(spec for spec, _ in chosen),
        tuple(why for _, why in chosen),
        read_prompt(rows[0], "row 0")[0],
        f"{one_line(str(own_answer(gold))[-40:])!r} is read as {one_line(str(canonical_answer(gold)), 40)!r}"
        if gold
        else "",
        "<think>" in prompts[0].prefill,
        max(len(prompt.token_ids) for prompt in prompts),
        dropped,
        room,
    )


def _lengths(lengths: Sequence[int], positions: int | None) -> tuple[int, int, int]:
    """(max_prompt_tokens, how many prompts are longer, max_tokens) that fit the positions of the model."""
    fitting = [length for length in lengths if positions is None or length + LEAST <= positions]
    if not fitting:
        raise UserError(f"the shortest prompt has {lengths[0]} tokens, and the model {positions} positions")
    limit = -(-fitting[-1] // LEAST) * LEAST
    if positions is not None:
        limit = min(limit, positions - LEAST)
    return limit, len(lengths) - len(fitting), MOST if positions is None else min(MOST, positions - limit)


def _keeps(tokenizer: Any, tag: str) -> bool:
    return tag in tokenizer.decode(tokenizer(tag, add_special_tokens=False)["input_ids"])
