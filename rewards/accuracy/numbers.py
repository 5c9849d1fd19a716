r"""Exact numbers with their units: decimals, fractions, percentages, compound measures, numerals of another base.

Numbers are compared as exact decimals and fractions: 1e-7 is not 2e-7, however small the difference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from rewards.accuracy.normalise import DOLLAR, words
from rewards.accuracy.unit_names import MONEY_WORDS
from rewards.accuracy.units import Unit, conversion, named, read_unit

_DECIMAL = r"(?:\d{1,3}(?:[ ,]\d{3})+|\d+)?(?:\.\d+|\.)?"
_POWER = r"(?: ?\\(?:times|cdot) ?10 ?\^ ?(?:\{ ?(?P<power>[+-]?\d{1,3}) ?\}|(?P<bare>[+-]?\d{1,3})))?"
_MONEY = rf"(?P<money>{DOLLAR}|[$€£¥₹฿₩₫₽]|(?:USD|EUR|GBP|RMB|CNY|JPY|THB|INR|US|Rs)\.? ?{DOLLAR}?(?=[ \d.]))?"
_VALUE = re.compile(
    rf"(?P<sign>[+-]?) ?{_MONEY} ?(?P<inner>-?)"
    r"(?:(?P<whole>\d+)? ?\\frac ?(?:\{(?P<a>\d+)\} ?\{(?P<b>\d+)\}|(?P<c>\d)(?P<d>\d))"
    rf"|(?:(?P<units>\d+) )?(?P<p>\d+) ?/ ?(?P<q>\d+)|(?P<decimal>{_DECIMAL}){_POWER})(?P<rest>.*)",
    re.DOTALL,
)
_BEFORE = re.compile(r"(?i)^(?:about|approximately|approx\.?|exactly|roughly|only|just) ")
_NEGATIVE = re.compile(r"(?i)^(?:negative|minus) (?=[\d.\\])")
_PERCENT = re.compile(r"%|percent|percentage|pct|per cent|per-cent|percents", re.IGNORECASE)
_PART = re.compile(r"[\d.,]+ ?[^\d]+")
_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "sixteen": 16, "binary": 2, "octal": 8, "decimal": 10, "hexadecimal": 16, "hex": 16,
}  # fmt: skip
_BASE = rf"(\d{{1,2}}|{'|'.join(_BASES)})"
_NUMERAL = re.compile(
    rf"(-?)\(?([\dA-Za-z]*\.?[\dA-Za-z]+)\)? ?"
    rf"(?:_ ?\{{? ?(?:base)?[- ]?{_BASE} ?\}}?|,? ?\(? ?(?:in )?base[- ]?{_BASE} ?\)?)"
)
MAX_DIGITS = 400  # of numbers that are compared as fractions


@dataclass(frozen=True)
class Value:
    """An exactly known number."""

    number: Decimal | Fraction
    percent: bool = False
    unit: Unit | None = None


@dataclass(frozen=True)
class Numeral:
    """A number as it is written in a base."""

    digits: str
    base: int


def parse_value(text: str) -> Value | None:
    """The number that `text` (already `plain`) writes, with its unit; None when it is anything else."""
    opened = _NEGATIVE.sub("-", _BEFORE.sub("", words(text)))
    match = _VALUE.fullmatch(opened)
    if match is None or (match["sign"] and match["inner"]):
        return None
    rest = match["rest"].strip()
    percent = _PERCENT.fullmatch(rest.rstrip(".")) is not None
    read = (Fraction(1), None) if percent else read_unit(match["rest"], glued=rest == match["rest"])
    if read is None:
        return _compound(opened)
    number = _number(match)
    if number is None:
        return None
    times, unit = read
    if match["money"] is not None and (unit is None or rest in MONEY_WORDS):
        times, unit = MONEY_WORDS.get(rest, times), _currency(match["money"])
    return Value(number if times == 1 else _times(number, times), percent, unit)


def _currency(sign: str) -> Unit | None:
    name = re.sub(r"[. ]", "", sign)
    return named(DOLLAR if DOLLAR in name or name == "US" else name)


def _compound(text: str) -> Value | None:
    """5 dollars and 30 cents, 2 hours 30 minutes: measures of one dimension."""
    parts = [part.strip() for part in re.split(r",? and |, ?(?=\d)| (?=\d+(?:\.\d+)? ?[^\W\d_])", text)]
    if not 2 <= len(parts) <= 4 or not all(map(_PART.fullmatch, parts)):
        return None
    values = [parse_value(part) for part in parts]
    first, total = values[0], Fraction(0)
    for value in values:
        if first is None or value is None or value.percent or value.unit is None or first.unit is None:
            return None
        scale = conversion(first.unit, value.unit)
        if scale is None or value.unit.nouns or (value.unit == first.unit and value is not first):
            return None
        total += Fraction(value.number) * scale
    return Value(total, False, first.unit if first else None)


def same_value(gold: Value, answer: Value) -> bool:
    """Whether two values are the same, a unit or a percent sign that one of them leaves out aside."""
    scale = conversion(gold.unit, answer.unit)
    if scale is None or (gold.percent and _measures(answer)) or (answer.percent and _measures(gold)):
        return False
    number = answer.number if scale == 1 else _times(answer.number, scale)
    if gold.percent == answer.percent:
        return equal(gold.number, number)
    if gold.percent:
        return equal(gold.number, number) or equal(gold.number, _hundredfold(number))  # 28% is answered by 28 and 0.28
    # 0.28 is answered by 28%, 12 by 12%; 0.28% is something else
    return equal(_hundredfold(gold.number), number) or (
        equal(gold.number, number) and (gold.number == int(gold.number) or gold.number > 1)
    )


def _measures(value: Value) -> bool:
    """Whether it is of something that a share is not."""
    return value.unit is not None and not value.unit.is_any


def parse_numeral(text: str) -> Numeral | None:
    """A numeral that names its base: ``1011_2``, "137 (base 9)"."""
    match = _NUMERAL.fullmatch(words(text).replace("_ {", "_{").strip())
    if match is None:
        return None
    base = _BASES.get((match[3] or match[4]).lower()) or int(match[3] or match[4])
    digits = match[2].lower()
    known = 2 <= base <= 36 and all(char == "." or int(char, 36) < base for char in digits)
    is_name = not any(map(str.isdigit, digits)) and (len(digits) == 1 or not match[2].isupper())  # x_1
    return None if not known or is_name else Numeral(match[1] + (digits.lstrip("0") or "0"), base)


def same_numeral(gold: str, answer: str) -> bool | None:
    """Whether two numerals, at least one of which names its base, are the same; None when neither does.

    A gold that names a base asks for that base. A gold that names none is a decimal number.
    """
    expected, given = parse_numeral(gold), parse_numeral(answer)
    if expected is not None and given is not None:
        return expected == given
    if expected is not None and "=" in answer:
        return None
    if expected is not None:
        digits = words(answer).replace(" ", "").replace(",", "").lower()
        return (
            re.fullmatch(r"-?[\da-z.]+", digits) is not None and Numeral(_stripped(digits), expected.base) == expected
        )
    if given is None:
        return None
    value = parse_value(gold)
    whole = value is not None and "." not in given.digits
    return (
        value is not None and whole and len(given.digits) < MAX_DIGITS and value.number == int(given.digits, given.base)
    )


def _stripped(digits: str) -> str:
    sign = "-" if digits.startswith("-") else ""
    return sign + (digits.removeprefix("-").lstrip("0") or "0")


def _number(match: re.Match[str]) -> Decimal | Fraction | None:
    over, under = match["a"] or match["c"] or match["p"], match["b"] or match["d"] or match["q"]
    sign = match["sign"] or match["inner"]
    if over is not None:
        whole = match["whole"] or match["units"] or "0"
        if max(len(over), len(under), len(whole)) > MAX_DIGITS or not int(under):
            return None
        value = int(whole) + Fraction(int(over), int(under))
        return -value if sign == "-" else value
    try:  # from text, which is exact: arithmetic would round to 28 digits
        return Decimal(f"{sign}{re.sub('[ ,]', '', match['decimal'])}e{match['power'] or match['bare'] or 0}")
    except InvalidOperation:  # no digits at all
        return None


def _times(number: Decimal | Fraction, factor: Fraction) -> Decimal | Fraction:
    if isinstance(number, Decimal):
        tens = len(str(factor.numerator)) - 1
        if factor == 10**tens:
            sign, digits, exponent = number.as_tuple()
            return Decimal((sign, digits, int(exponent) + tens))
        if abs(number.adjusted()) > MAX_DIGITS:
            return number
    return Fraction(number) * factor


def _hundredfold(number: Decimal | Fraction) -> Decimal | Fraction:
    return _times(number, Fraction(100))


def equal(a: Decimal | Fraction, b: Decimal | Fraction) -> bool:
    """Whether two numbers are, but for the rounding of a fraction that has no end."""
    if isinstance(a, Decimal) and isinstance(b, Decimal):
        return a == b
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    decimal, fraction = (a, b) if isinstance(a, Decimal) else (b, a)
    assert isinstance(decimal, Decimal)
    assert isinstance(fraction, Fraction)
    digits, exponent = len(decimal.as_tuple().digits), int(decimal.as_tuple().exponent)
    if digits > MAX_DIGITS or abs(decimal.adjusted()) > MAX_DIGITS:
        return False
    difference = abs(Fraction(decimal) - fraction)
    # A decimal stands for a fraction that has no end when it is that fraction rounded to six digits or more.
    rounded = digits >= 6 and exponent < 0 and not _ends(fraction)
    return difference == 0 or (rounded and difference <= Fraction(1, 2) * Fraction(10) ** exponent)


def _ends(fraction: Fraction) -> bool:
    """Whether it can be written as a decimal: its denominator is a product of 2s and 5s."""
    power = fraction.denominator.bit_length()  # no less than either occurs
    return 10**power % fraction.denominator == 0
