"""Like is compared with like: what kind an answer is, and whether two of a kind are the same.

Decided here, exactly: what is spelt the same, numbers with units, numerals with a base, times, ratios, choices, names,
texts, and lists of those. The rest is mathematics, for the worker (`rewards.accuracy.equality`), which is asked only
about formulas: a word that its parser would drop or multiply out never reaches it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

from rewards.accuracy.choices import same_choice
from rewards.accuracy.normalise import DEGREE_SIGN, DOLLAR, plain, unspaced, words
from rewards.accuracy.numbers import MAX_DIGITS, parse_value, same_numeral, same_value
from rewards.accuracy.relations import (
    as_set,
    balanced,
    both_signs,
    has_scaled_tuple,
    is_list,
    is_name,
    items,
    may_be_equal,
    or_parts,
    outermost,
    split_name,
    without_conditions,
)
from rewards.accuracy.texts import (
    has_alternatives,
    has_ellipsis,
    is_formula,
    is_text,
    same_name,
    same_text,
    set_in_words,
    tokens,
)
from rewards.accuracy.times import parse_clock, quotients, ratio, same_clock
from rewards.accuracy.units import conversion, named, split_unit

MAX_LENGTH = 2_000  # characters; longer answers are right only where they are spelt as the gold
_JOINING_WORDS = re.compile(r"(?i)[,;]? ?\b(?:or|and)\b")
_ENDLESS = re.compile(rf"\w{{{MAX_DIGITS + 1}}}")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_VARIABLE = re.compile(r"(?:\\frac|[^A-Za-z\\])*[\d}][a-z]")  # a gold 4t is a product, whatever t may be a unit of
Ask = Callable[[str, str], bool]  # (gold, answer), both formulas


def is_endless(text: str) -> bool:
    """Whether it is too long to be an answer, or a word or number in it is."""
    return len(text) > MAX_LENGTH or _ENDLESS.search(text) is not None


def spelt(text: str) -> str:
    """`plain`, and for what is endless its mere characters."""
    return "".join(text.split()) if is_endless(text) else plain(text)


def quick_verdict(gold: str, answer: str) -> bool | None:
    """Whether two `plain` answers are the same, when that can be told exactly; None: it takes more."""
    if gold == answer or unspaced(gold) == unspaced(answer):
        return True
    if is_endless(gold) or is_endless(answer):
        return False
    based = same_numeral(gold, answer)
    if based is not None:
        return based
    clock = same_clock(gold, answer)
    if clock is not None:
        return clock
    expected, given = parse_value(gold), parse_value(answer)
    if expected is not None and given is not None:
        left_out = given.unit is None and _VARIABLE.fullmatch(gold) is not None
        return not left_out and same_value(expected, given)
    chosen = same_choice(gold, answer)
    if chosen is not None:
        return chosen
    if has_ellipsis(gold) or has_ellipsis(answer):  # not read element by element: only equal when spelt the same
        return False
    return same_name(gold, answer)


def same(gold: str, answer: str, ask: Ask) -> bool:
    """Whether two `plain` answers are the same."""
    quick = quick_verdict(gold, answer)
    if quick is not None:
        return quick
    gold, answer = set_in_words(without_conditions(gold)), set_in_words(without_conditions(answer))
    if gold == answer:
        return True
    if "matrix" in gold + answer:
        gold, answer = _as_tuple(gold, answer), _as_tuple(answer, gold)
    if r"\pi" in gold or r"\pi" in answer:
        gold, answer = _in_radians(gold, answer), _in_radians(answer, gold)
    for part in _approximations(gold):
        if part != gold and same(part, answer, ask):
            return True
    exact = _exact(answer)
    if exact is None:
        return False
    answer = exact
    if has_alternatives(answer) and not is_list(gold) and not _interval_like(gold):
        parts = or_parts(answer)  # "7 or 5" is no answer, "1/2 or 0.5" is; a gold with several solutions lists them
        return len(parts) > 1 and all(same(gold, part, ask) for part in parts)
    if is_text(gold):
        return _same_words(gold, answer)
    sets = _as_sets(gold, answer)
    if sets is not None:
        return sets[0] == sets[1] or ask(*map(for_worker, sets))
    found = _same_ratio(gold, answer, ask)
    if found is not None:
        return found
    gold, answer = both_signs(gold), both_signs(answer)
    expected, given = items(gold), items(answer)
    if len(expected) > 1 or len(given) > 1:
        listed = _same_items(expected, given, ask) if not balanced(gold) else None
        if listed is not None:
            return listed
    else:
        expected, given = [gold], [answer]
    stripped = _unnamed(expected, given)
    if stripped is None:
        return False
    expected, given = stripped
    if len(expected) == len(given) == 1 and (expected, given) != ([gold], [answer]):
        return same(expected[0], given[0], ask)
    measured = _measured(expected, given)
    if measured is None:
        return False
    gold, answer = (for_worker(", ".join(parts)) for parts in measured)
    whole = is_formula(answer) and not has_scaled_tuple(answer)  # no word and no factor that the parser would drop
    return gold == answer or (whole and ask(gold, answer))


def _as_tuple(text: str, other: str) -> str:
    """A column as a tuple, where the other side is one."""
    column = re.fullmatch(r"\\begin ?\{[pb]matrix\}([^&]*)\\end ?\{[pb]matrix\}", text)
    if column is None or not (other.startswith("(") and balanced(other)):
        return text
    return "(" + ", ".join(part.strip() for part in column[1].split(r"\\")) + ")"


def _in_radians(text: str, other: str) -> str:
    """An angle in degrees as the other side writes its own."""
    value, unit = split_unit(text)
    if unit == named("radian"):
        return value
    angle = parse_value(text) if r"\pi" in other else None
    return rf"\frac{{{angle.number} \pi}}{{180}}" if angle and angle.unit == named("degree") else text


def _measured(gold: list[str], answer: list[str]) -> tuple[list[str], list[str]] | None:
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


def _exact(answer: str) -> str | None:
    r"""The first of ``\frac{2}{3} \approx 0.67``: what comes after it is the same, but rounded; None where it isn't."""
    parts = outermost(answer, r"\\approx(?![a-z])|\\sim(?:eq)?(?![a-z])")
    if not may_be_equal(parts):
        return None
    return parts[1] if len(parts) == 2 and is_name(parts[0]) else parts[0] or answer


def _approximations(gold: str) -> list[str]:
    return [part for part in outermost(gold, r"\\approx(?![a-z])") if part]


def _interval_like(text: str) -> bool:
    return as_set(text) is not None or r"\cup" in text


def _as_sets(gold: str, answer: str) -> tuple[str, str] | None:
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


def _same_ratio(gold: str, answer: str, ask: Ask) -> bool | None:
    """Whether two ratios are the same; a ratio of two is also a fraction. None: there is none."""
    expected, given = ratio(split_name(gold)[1]), ratio(split_name(answer)[1])
    if expected is None and given is None:
        return None
    if given is not None and expected is None:
        if len(given) != 2 or parse_clock(answer) is not None:
            return False
        return same(gold, rf"\frac{{{given[0]}}}{{{given[1]}}}", ask)
    assert expected is not None
    if given is None:
        if len(expected) != 2 or ":" in answer:
            return False
        return same(rf"\frac{{{expected[0]}}}{{{expected[1]}}}", answer, ask)
    if len(expected) != len(given) or (parse_clock(answer) is not None and re.search(r": ?0\d", answer)):
        return False
    numbers = [[parse_value(part) for part in parts] for parts in (expected, given)]
    if all(value is not None and value.unit is None for side in numbers for value in side):
        a, b = ([Fraction(value.number) for value in side if value] for side in numbers)
        return all(x * b[0] == y * a[0] for x, y in zip(a, b, strict=True)) and (a[0] != 0) == (b[0] != 0)
    return ask(for_worker(quotients(expected)), for_worker(quotients(given)))


def _same_items(gold: list[str], answer: list[str], ask: Ask) -> bool | None:
    """Whether two lists hold the same, in any order, where each pair can be told exactly; None: ask about all of it."""
    if len(gold) != len(answer):
        return False if all(map(_is_exact, gold)) and all(map(_is_exact, answer)) else None
    stripped = _unnamed(gold, answer)
    if stripped is None:
        return None
    gold, left = stripped[0], list(stripped[1])
    if not (all(map(_is_exact, gold)) and all(map(_is_exact, left))):
        return None
    for item in gold:
        match = next((other for other in left if same(item, other, ask)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _is_exact(text: str) -> bool:
    return parse_value(text) is not None or is_text(text) or re.fullmatch(r"[A-Z]", text) is not None


def _same_words(gold: str, answer: str) -> bool:
    """Two texts; lists of words in any order."""
    if same_text(gold, answer):
        return True
    expected, given = ([tokens(part) for part in items(text)] for text in (gold, answer))
    alike = len(expected) == len(given) > 1 and all(len(part) == 1 for part in expected)
    return alike and sorted(expected) == sorted(given)


def _unnamed(gold: list[str], answer: list[str]) -> tuple[list[str], list[str]] | None:
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


def for_worker(text: str) -> str:
    """A formula as the worker's parser reads it: without units behind a number."""
    text = _JOINING_WORDS.sub(", ", DEGREE_SIGN.sub("", words(text).replace(DOLLAR, ""))).strip()
    return text if re.search(r"[(\[{]", text) else _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)


def vote(answer: str) -> Fraction | str:
    """What answers share that are the same number, or the same but for spelling: 1/2, 0.5 and 50%.

    A quicker and rougher judgement than `same`, for counting answers of which none may be right.
    """
    text = spelt(answer)
    value = None if is_endless(text) else parse_value(text)
    if value is None or (isinstance(value.number, Decimal) and abs(value.number.adjusted()) > MAX_DIGITS):
        return unspaced(text).casefold()
    return Fraction(value.number) / (100 if value.percent else 1)
