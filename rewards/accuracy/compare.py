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

from rewards.accuracy.alike import (
    approximations,
    as_sets,
    as_tuple,
    in_radians,
    unnamed,
    without_rounding,
    without_units,
)
from rewards.accuracy.choices import same_choice
from rewards.accuracy.normalise import DEGREE_SIGN, DOLLAR, plain, unspaced, words
from rewards.accuracy.numbers import MAX_DIGITS, parse_value, same_numeral, same_value
from rewards.accuracy.relations import (
    as_set,
    balanced,
    both_signs,
    has_scaled_tuple,
    is_list,
    items,
    or_parts,
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
        gold, answer = as_tuple(gold, answer), as_tuple(answer, gold)
    if r"\pi" in gold or r"\pi" in answer:
        gold, answer = in_radians(gold, answer), in_radians(answer, gold)
    for part in approximations(gold):
        if part != gold and same(part, answer, ask):
            return True
    whole = without_rounding(answer)
    if whole is None:
        return False
    answer = whole
    if has_alternatives(answer) and not is_list(gold) and not _interval_like(gold):
        parts = or_parts(answer)  # "7 or 5" is no answer, "1/2 or 0.5" is; a gold with several solutions lists them
        return len(parts) > 1 and all(same(gold, part, ask) for part in parts)
    if is_text(gold):
        return _same_words(gold, answer)
    sets = as_sets(gold, answer)
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
    stripped = unnamed(expected, given)
    if stripped is None:
        return False
    expected, given = stripped
    if len(expected) == len(given) == 1 and (expected, given) != ([gold], [answer]):
        return same(expected[0], given[0], ask)
    formulas = without_units(expected, given)
    if formulas is None:
        return False
    gold, answer = (for_worker(", ".join(parts)) for parts in formulas)
    readable = is_formula(answer) and not has_scaled_tuple(answer)  # no word and no factor that the parser would drop
    return gold == answer or (readable and ask(gold, answer))


def _interval_like(text: str) -> bool:
    return as_set(text) is not None or r"\cup" in text


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
    stripped = unnamed(gold, answer)
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
