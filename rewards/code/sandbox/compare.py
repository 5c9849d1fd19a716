"""When the output of a program, or the value of a call, is the expected one."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from .stand_ins import Handle

_NUMBER = re.compile(r"[-+]?(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][-+]?[0-9]{1,3})?")


def same(value: Any, expected: Any, tolerance: float | None, unordered: bool) -> bool:
    """Whether a value is the one that a JSON text says: tuples are lists there, and keys are texts."""
    if isinstance(expected, list) and isinstance(value, list | tuple):
        pairs = (
            zip(_sorted(value), _sorted(expected), strict=False) if unordered else zip(value, expected, strict=False)
        )
        return len(value) == len(expected) and all(same(a, b, tolerance, unordered) for a, b in pairs)
    if isinstance(expected, dict) and isinstance(value, dict):
        named = {str(key): item for key, item in value.items()}
        fits = named.keys() == expected.keys() and len(named) == len(value)
        return fits and all(same(named[key], expected[key], tolerance, unordered) for key in named)
    if isinstance(value, Handle):
        return False
    numbers = type(value) in (int, float) and type(expected) in (int, float)
    return bool(value == expected) or (tolerance is not None and numbers and near(value, expected, tolerance))


def near(value: float, expected: float, tolerance: float) -> bool:
    """Relative to the expected number, or absolute where that is below one."""
    try:
        return abs(value - expected) <= tolerance * max(1.0, abs(expected)) < math.inf
    except OverflowError:  # of an integer that no float holds
        return False


def same_text(text: str, expected: str, tolerance: float | None = None, unordered: bool = False) -> bool:
    """Whether a program wrote what it should: line by line, without the blanks at the end of lines and of the text.

    `tolerance`: numbers in the lines may differ by so much; `unordered`: the lines come in any order.
    """
    lines, wanted = (_lines(one) for one in (text, expected))
    if unordered:
        lines, wanted = (sorted(one, key=None if tolerance is None else _order) for one in (lines, wanted))
    if tolerance is None or len(lines) != len(wanted):
        return lines == wanted
    return all(_near_line(line.split(), other.split(), tolerance) for line, other in zip(lines, wanted, strict=True))


def _near_line(words: list[str], expected: list[str], tolerance: float) -> bool:
    pairs = zip(words, expected, strict=False)
    return len(words) == len(expected) and all(
        a == b or (_is_number(a) and _is_number(b) and near(float(a), float(b), tolerance)) for a, b in pairs
    )


def _is_number(word: str) -> bool:
    return _NUMBER.fullmatch(word) is not None


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _order(line: str) -> list[tuple[int, float, str]]:
    return [(0, float(word), "") if _is_number(word) else (1, 0.0, word) for word in line.split()]


def _sorted(items: Any) -> list[Any]:
    def order(item: Any) -> tuple[int, Any, str]:
        if type(item) in (int, float):
            return 0, item, ""
        return 1, 0, json.dumps(item, sort_keys=True, default=str)

    return sorted(items, key=order)
