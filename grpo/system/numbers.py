"""Numbers of which some may be missing."""

from collections.abc import Iterable
from typing import Any


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are there; None when none is."""
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def total(values: Iterable[int | None]) -> int | None:
    """Their sum; None when one is missing, or all."""
    numbers = list(values)
    present = [number for number in numbers if number is not None]
    return sum(present) if present and len(present) == len(numbers) else None


def finite_number(value: Any) -> float | None:
    """A number of a file that can be reckoned with, else None."""
    return float(value) if isinstance(value, int | float) and abs(value) <= 1e100 else None
