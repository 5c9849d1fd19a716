r"""Two answers of one kind brought into one form, without the names, units and roundings that only one of them has.

Nothing here says that two are the same: that is `rewards.accuracy.compare`, which asks for these forms.
"""

from __future__ import annotations

import re
from fractions import Fraction

from rewards.accuracy.numbers import parse_value
from rewards.accuracy.relations import as_set, balanced, is_name, may_be_equal, outermost, split_name
from rewards.accuracy.units import conversion, named, split_unit


def as_sets(gold: str, answer: str) -> tuple[str, str] | None:
    """Two sets of numbers, of which one is written as inequalities; None where they are nothing of the kind."""
    expected, given = as_set(gold), as_set(answer)
    if expected is None and given is None:
        return None
    if expected is not None and given is not None:
        return (expected[1], given[1]) if expected[0] == given[0] else None
    name, interval = expected or given  # type: ignore[misc]
    other_name, other = split_name(answer if expected else gold)
    if other_name not in ("", name) or not re.match(r"[(\[]|\\mathbb", other):
        return None
    return (interval, other) if expected else (other, interval)


def as_tuple(text: str, other: str) -> str:
    """A column as a tuple, where the other side is one."""
    column = re.fullmatch(r"\\begin ?\{[pb]matrix\}([^&]*)\\end ?\{[pb]matrix\}", text)
    if column is None or not (other.startswith("(") and balanced(other)):
        return text
    return "(" + ", ".join(part.strip() for part in column[1].split(r"\\")) + ")"


def in_radians(text: str, other: str) -> str:
    """An angle in degrees as the other side writes its own."""
    value, unit = split_unit(text)
    if unit == named("radian"):
        return value
    angle = parse_value(text) if r"\pi" in other else None
    return rf"\frac{{{angle.number} \pi}}{{180}}" if angle and angle.unit == named("degree") else text


def without_units(gold: list[str], answer: list[str]) -> tuple[list[str], list[str]] | None:
    """The formulas without their units, the answer's in the gold's; None where the units are of different things."""
    expected, given = [split_unit(part) for part in gold], [split_unit(part) for part in answer]
    units = {unit for _, unit in expected if unit}
    scaled = []
    for value, unit in given:
        scales = {conversion(own, unit) for own in units} or {Fraction(1)}
        scale = scales.pop()
        if scale is None or scales:
            return None
        scaled.append(value if scale == 1 else rf"({value}) \cdot \frac{{{scale.numerator}}}{{{scale.denominator}}}")
    return [value for value, _ in expected], scaled


def without_rounding(answer: str) -> str | None:
    r"""The first of ``\frac{2}{3} \approx 0.67``: what comes after it is the same, but rounded; None where it isn't."""
    parts = outermost(answer, r"\\approx(?![a-z])|\\sim(?:eq)?(?![a-z])")
    if not may_be_equal(parts):
        return None
    return parts[1] if len(parts) == 2 and is_name(parts[0]) else parts[0] or answer


def approximations(gold: str) -> list[str]:
    return [part for part in outermost(gold, r"\\approx(?![a-z])") if part]


def unnamed(gold: list[str], answer: list[str]) -> tuple[list[str], list[str]] | None:
    """The values without their names, unless both sides name all of theirs; None where only one is an unsolved equation
    and can't be compared."""
    expected, given = [split_name(part) for part in gold], [split_name(part) for part in answer]
    if not (all(name for name, _ in expected) and all(name for name, _ in given)):
        left, right = _grouped(expected, len(given)), _grouped(given, len(expected))
        if (any(map(_is_equation, left)) and any(map(_is_equation, answer))) or (
            any(map(_is_equation, right)) and any(map(_is_equation, gold))
        ):
            return gold, answer  # 2x + 4y = 3 and y = 3/4 - x/2
        if any(map(_is_equation, left)) or any(map(_is_equation, right)):
            return None
        return left, right
    if len(gold) == len(answer) == 1 and expected[0][0] == given[0][0]:
        return [expected[0][1]], [given[0][1]]
    return gold, answer


def _grouped(named: list[tuple[str, str]], wanted: int) -> list[str]:
    """The values of "p = 5, q = 2; p = 7, q = 2": as pairs where so many are wanted."""
    names = [name for name, _ in named]
    values = [value for _, value in named]
    size = len(names) // max(wanted, 1)
    if size < 2 or not all(names) or names != names[:size] * wanted or len(set(names[:size])) < size:
        return values
    return [f"({', '.join(values[start : start + size])})" for start in range(0, len(values), size)]


def _is_equation(text: str) -> bool:
    return len(outermost(text, r"(?<![<>!])=|\\(?:ne|in)(?![a-z])")) > 1
