"""Which rows a model reward judges: the option `applies_to`, shared by reward models and the judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grpo.errors import UserError


def check_applies_to(name: str, applies_to: Mapping[str, Any] | None) -> None:
    """`name` is the reward's, for the message.

    Raises:
        UserError: `applies_to` is neither None nor `{column: ..., values: [...]}`.
    """
    if applies_to is not None and set(applies_to) != {"column", "values"}:
        raise UserError(f"{name}: applies_to must hold 'column' and 'values', got {sorted(applies_to)}")
    if applies_to is not None and not isinstance(applies_to["values"], list | tuple):  # "in" a text finds its parts
        raise UserError(f"{name}: applies_to: 'values' must be a list, got {applies_to['values']!r}")


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
