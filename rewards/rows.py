"""Which rows a reward judges: those with a gold that can be read, and the option `applies_to` of model rewards."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from grpo.data.prompts import ANSWER_COLUMNS
from grpo.errors import UserError
from grpo.scoring.table import Reward
from grpo.types import Prompt
from rewards.accuracy.reward import accuracy_reward, gold_is_parseable
from rewards.length import cosine_length, length_reward
from rewards.loader import options

log = logging.getLogger("grpo")

GRADING = (accuracy_reward, cosine_length, length_reward)  # compare with the gold


def judgeable(prompts: Sequence[Prompt], rewards: Sequence[Reward], source: str) -> list[Prompt]:
    """Where a reward with a say compares with the gold, only the prompts whose gold can be read: the others would stop
    the run later.

    Raises:
        UserError: there is none.
    """
    kept = list(prompts)
    for reward in rewards:
        warn_of_hidden(prompts, reward, source)
        if reward.weight and getattr(reward.fn, "func", reward.fn) in GRADING:  # under the options a loader has bound
            column = reward.columns.get("answer")
            kept = [p for p in kept if gold_is_parseable(p.columns.get(column) if column else p.answer)]
    if prompts and not kept:
        raise UserError(f"{source}: no row has a gold that can be read (columns {', '.join(ANSWER_COLUMNS)})")
    if len(kept) < len(prompts):
        log.warning("%s: %d of %d golds cannot be read: dropped", source, len(prompts) - len(kept), len(prompts))
    return kept


def warn_of_hidden(prompts: Sequence[Prompt], reward: Reward, source: str) -> None:
    """Say which columns of the data a reward does not see, since its `kwargs` have their names."""
    bound = reward.fn.keywords.keys() - options(reward.fn.func) if isinstance(reward.fn, partial) else set()
    for name in sorted(name for name in bound if any(name in prompt.columns for prompt in prompts)):
        log.warning("%s: reward '%s' is given its '%s' by kwargs, not by the column", source, reward.name, name)


def check_applies_to(applies_to: Mapping[str, Any] | None, where: str = "") -> None:
    """
    Raises:
        UserError: `applies_to` is neither None nor `{column: ..., values: [...]}`.
    """
    if applies_to is not None and set(applies_to) != {"column", "values"}:
        raise UserError(f"{where}applies_to must hold 'column' and 'values', got {sorted(applies_to)}")
    if applies_to is not None and not isinstance(applies_to["values"], list | tuple):  # "in" a text finds its parts
        raise UserError(f"{where}applies_to: 'values' must be a list, got {applies_to['values']!r}")


def applying_rows(
    name: str, applies_to: Mapping[str, Any] | None, count: int, columns: Mapping[str, Sequence[Any]]
) -> list[int]:
    """Those of `count` rows whose column holds one of the values; all of them when `applies_to` is None.

    Raises:
        UserError: there are rows, and the data has no such column.
    """
    if applies_to is None or not count:
        return list(range(count))
    column = applies_to["column"]
    if column not in columns:
        raise UserError(f"{name}: applies_to: the data has no column '{column}'")
    return [row for row in range(count) if columns[column][row] in applies_to["values"]]
