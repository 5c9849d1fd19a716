r"""Answers that need no computer algebra: exact numbers, fractions, letters of a choice, and texts.

`plain` brings the spellings of one answer together (``\dfrac``, full-width digits, ``\left``, units of spacing);
`quick_verdict` decides what can be decided exactly, and leaves the rest to the worker (`rewards.accuracy.equality`).
Numbers are compared as exact decimals and fractions: 1e-7 is not 2e-7, however small the difference.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "﹣": "-", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty "}
    | {"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ", "°": ""}
    | {"½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}"}
    | {0x3000: " ", 0xA0: " ", 0x202F: " "}
)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_EXPONENT = re.compile("[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
# 4.5e33: to the LaTeX parser, e is 2.718
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d{1,4})(?!\w|\.\d)")
_REPEATING = re.compile(  # 0.1\overline{6}
    r"(?<![\d.,])(\d{0,20})\.(\d{0,20})\\(?:overline|bar|dot) ?(?:\{(\d{1,20})\}|(\d))"
)
_DOUBLE_FACTORIAL = re.compile(r"(?<![\w.])(\d{1,2})!!(?!!)")  # the LaTeX parser reads (5!)!
_REWRITES: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"√\s*\(([^()]*)\)|√\s*(\d+|[a-z])"), lambda m: rf"\sqrt{{{m[1] or m[2]}}}"),
    (re.compile(r"\\sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),  # \sqrt(2) would be read as the root of nothing
    (re.compile(r"\\[dtc]frac(?![a-z])"), r"\\frac"),
    (re.compile(r"\\frac\s*(\\[a-z]+)\s*(\d)"), r"\\frac{\1}{\2}"),  # \frac\pi4
    (re.compile(r"^\s*\\approx(?![a-z])"), ""),
    (re.compile(r"(?<=\d)(?:,\s*\\!\s*|\{,\})(?=\d{3})"), ""),  # 10{,}000 and 32,\!349
    (re.compile(r"\\mathrm\s*\{([a-z])\}"), r"\1"),  # math-verify loses the sign before \mathrm{e}
    (re.compile(r"\\(?:left|right|displaystyle|big|Big)(?![a-zA-Z])\.?"), ""),
    (re.compile(r"\^\{?\s*\\circ\s*\}?|\\degrees?(?![a-z])"), ""),
    (re.compile(r"(?<!\\)\\\$|(?<!\\)\$|\\[()\[\]]"), ""),
    (re.compile(r"(?<!\\)\\%"), "%"),
    (re.compile(r"(?<!\\)\\(?:[,;:! ]|q?quad(?![a-z]))|~"), " "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r"(?<!!)!="), r"\\ne "),
    (_SCIENTIFIC, r"\1\\times 10^{\2}"),
    (_REPEATING, lambda m: _repeating(m[1], m[2], m[3] or m[4])),
    (_DOUBLE_FACTORIAL, lambda m: str(math.prod(range(int(m[1]), 0, -2)))),
    (re.compile(r"\s+"), " "),
]
_TEXT = re.compile(r"\\(?:text|mbox|mathrm|textrm|textbf|mathbf|textit)\s*\{([^{}]*)\}")
_DECIMAL = r"(?:\d{1,3}(?:[ ,]\d{3})+|\d+)?(?:\.\d+|\.)?"
_POWER = r"(?: ?\\(?:times|cdot) ?10 ?\^ ?(?:\{ ?(?P<power>[+-]?\d{1,3}) ?\}|(?P<bare>[+-]?\d{1,3})))?"
_VALUE = re.compile(
    rf"(?P<sign>[+-]?) ?[€£¥₹฿]? ?(?:(?P<whole>\d+)? ?\\frac ?(?:\{{(?P<a>\d+)\}} ?\{{(?P<b>\d+)\}}|(?P<c>\d)(?P<d>\d))"
    rf"|(?:(?P<units>\d+) )?(?P<p>\d+) ?/ ?(?P<q>\d+)|(?P<decimal>{_DECIMAL}){_POWER}) ?[€£¥₹฿]?(?P<rest>.*)",
    re.DOTALL,
)
_UNIT = re.compile(r" ?(?:[^\W\d_]+[./]?(?: ?\^ ?\{?[23]\}?)?[ -]?){1,4}\.?")
_WORDS = re.compile(r"\w+")
_SHORT_UNITS = frozenset(_WORDS.findall("m s g l h km cm mm kg mg ml min hr hrs mph ft in lb oz usd am pm"))
_ELLIPSIS = re.compile(r"\\[lcd]?dots|\.\.\.|…")
_ADJACENT_WORDS = re.compile(r"[^\W\d_]{2,}(?:[ ,;:']+[^\W\d_]{2,})+")
_NOT_UNITS = frozenset(
    _WORDS.findall(
        "is are was be not no or and but wrong if than then plus minus times over mod pi sqrt sin cos tan log ln exp "
        "infty infinity hundred thousand million billion trillion dozen half third squared cubed more less"
    )
)
_JOINS = frozenset(_WORDS.findall("and or sin cos tan log ln exp sqrt pi if"))
_CHOICE = re.compile(  # "(B) 5", "B: 5", and of a sentence "D, it can't be A"
    r"(?:(?:for sure|definitely|clearly|certainly|probably) )?\(?([A-J])"
    r"(?=\)?[.:。]?$|\)[.:]?\s|[.:]\s|。|, | ?不是| not | non )"
)
_HEDGE = re.compile(r"\)?\.?\s*(?:[,;/&]\s*(?:or\b|and\b)?|or\b|and\b|(?=\())\s*\(?[A-J](?!\w)")  # "A, B", "A or B"
_MAX_DIGITS = 400  # of numbers that are compared as fractions


@dataclass(frozen=True)
class Value:
    """An exactly known number."""

    number: Decimal | Fraction
    percent: bool


def plain(text: str) -> str:
    """One spelling for what only looks different. The result is for comparison and for the worker, not for people."""
    text = _EXPONENT.sub(lambda found: f"^{{{found[0].translate(_RAISED)}}}", text)
    text = "".join(_ascii(char) for char in text.translate(_SIGNS) if unicodedata.category(char) != "Cf")
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text.strip().rstrip(".,;").strip()


def words(text: str) -> str:
    r"""`text` with ``\text{}`` and its kin opened."""
    return " ".join(_TEXT.sub(r" \1 ", text).split())


def parse_value(text: str) -> Value | None:
    """The number that `text` (already `plain`) writes, with its unit dropped; None when it is anything else."""
    match = _VALUE.fullmatch(words(text))
    if match is None:
        return None
    rest = match["rest"].strip()
    percent = re.fullmatch(r"%|percent|percentage|pct", rest, re.IGNORECASE) is not None
    if rest and not percent and not _is_unit(match["rest"]):
        return None
    number = _number(match)
    return None if number is None else Value(number, percent)


def quick_verdict(gold: str, answer: str) -> bool | None:
    """Whether two `plain` answers are the same, when that can be told exactly; None: ask the worker."""
    if gold == answer or _unspaced(gold) == _unspaced(answer):
        return True
    expected, given = parse_value(gold), parse_value(answer)
    if expected is not None and given is not None:
        return _same_number(expected, given)
    chosen = same_choice(gold, answer)
    if chosen is not None:
        return chosen
    if has_ellipsis(gold) or has_ellipsis(
        answer
    ):  # sequences are not read element by element: only equal when spelt the same
        return False
    if is_text(gold):
        return _letters(gold) == _letters(answer)
    if is_prose(answer):  # a sentence in the box is no formula, whatever digits it holds
        return False
    return None


def vote(answer: str) -> Fraction | str:
    """What answers share that are the same number, or the same but for spelling: 1/2, 0.5 and 50%.

    A quicker and rougher judgement than `quick_verdict`'s, for counting answers of which none may be right.
    """
    text = plain(answer)
    value = parse_value(text)
    if value is None or (isinstance(value.number, Decimal) and abs(value.number.adjusted()) > _MAX_DIGITS):
        return _unspaced(text).casefold()
    return Fraction(value.number) / (100 if value.percent else 1)


def _unspaced(text: str) -> str:
    """Without spaces, and with one sign between the parts of a list."""
    return re.sub(r",(?:and\b)?|;|\band\b", ",", words(text)).replace(" ", "")


def same_choice(gold: str, answer: str) -> bool | None:
    """Whether two choices name the same letter; None when either is no choice."""
    expected, given = _choice(gold), _choice(answer)
    return None if expected is None or given is None else expected == given


def is_text(text: str) -> bool:
    r"""An answer in words: ``\text{Monday}``, ``\text{two lines}``, or one bare word of at least four letters."""
    wrapped = _TEXT.fullmatch(text)
    if wrapped is not None:
        return any(map(str.isalpha, wrapped[1]))
    return re.fullmatch(r"[^\W\d_]{4,}", text) is not None


def is_prose(text: str) -> bool:
    r"""Two or more words in a row that are neither units behind a number nor LaTeX nor joins such as "and"."""
    if parse_value(text) is not None:
        return False
    bare = re.sub(r"\\(?:begin|end)\s*\{[a-z]+\*?\}|\\[a-zA-Z]+", "+", words(text))
    runs = (re.findall(r"[^\W\d_]+", run) for run in _ADJACENT_WORDS.findall(bare))
    return any(sum(word.lower() not in _JOINS and not word.isupper() for word in run) >= 2 for run in runs)


def has_alternatives(text: str) -> bool:
    """Whether the answer hedges: "7 or 5"."""
    return re.search(r"(?i)\bor\b", words(text)) is not None


def has_ellipsis(text: str) -> bool:
    """Whether the answer is a sequence that goes on: "1, 2, ..., n"."""
    return _ELLIPSIS.search(text) is not None


def _ascii(char: str) -> str:
    """Full-width forms and the digits of other scripts as ASCII."""
    if "！" <= char <= "～":
        return chr(ord(char) - 0xFEE0)
    return str(unicodedata.decimal(char)) if char > "\x7f" and unicodedata.category(char) == "Nd" else char


def _number(match: re.Match[str]) -> Decimal | Fraction | None:
    over, under = match["a"] or match["c"] or match["p"], match["b"] or match["d"] or match["q"]
    if over is not None:
        whole = match["whole"] or match["units"] or "0"
        if max(len(over), len(under), len(whole)) > _MAX_DIGITS or not int(under):
            return None
        value = int(whole) + Fraction(int(over), int(under))
        return -value if match["sign"] == "-" else value
    try:  # from text, which is exact: arithmetic would round to 28 digits
        return Decimal(f"{match['sign']}{re.sub('[ ,]', '', match['decimal'])}e{match['power'] or match['bare'] or 0}")
    except InvalidOperation:  # no digits at all
        return None


def _same_number(gold: Value, answer: Value) -> bool:
    if gold.percent == answer.percent:
        return _equal(gold.number, answer.number)
    percent, other = (gold.number, answer.number) if gold.percent else (answer.number, gold.number)
    return _equal(percent, other) or _equal(percent, _hundredfold(other))  # 28% answers 28 and 0.28


def _hundredfold(number: Decimal | Fraction) -> Decimal | Fraction:
    if isinstance(number, Fraction):
        return number * 100
    sign, digits, exponent = number.as_tuple()
    return Decimal((sign, digits, int(exponent) + 2))


def _repeating(whole: str, fixed: str, period: str) -> str:
    """The fraction of 12.3454545..., given "12", "3" and "45"."""
    before = int(f"0{whole}{fixed}")
    nines = 10 ** len(period) - 1
    return rf"\frac{{{before * nines + int(period)}}}{{{nines * 10 ** len(fixed)}}}"


def _equal(a: Decimal | Fraction, b: Decimal | Fraction) -> bool:
    if isinstance(a, Decimal) and isinstance(b, Decimal):
        return a == b
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    decimal, fraction = (a, b) if isinstance(a, Decimal) else (b, a)
    assert isinstance(decimal, Decimal)
    assert isinstance(fraction, Fraction)
    digits, exponent = len(decimal.as_tuple().digits), int(decimal.as_tuple().exponent)
    if digits > _MAX_DIGITS:
        return False
    difference = abs(Fraction(decimal) - fraction)
    # A decimal stands for a fraction that has no end when it is that fraction rounded to six digits or more.
    rounded = digits >= 6 and exponent < 0 and not _ends(fraction)
    return difference == 0 or (rounded and difference <= Fraction(1, 2) * Fraction(10) ** exponent)


def _ends(fraction: Fraction) -> bool:
    """Whether it can be written as a decimal: its denominator is a product of 2s and 5s."""
    power = fraction.denominator.bit_length()  # no less than either occurs
    return 10**power % fraction.denominator == 0


def _is_unit(rest: str) -> bool:
    text = rest.strip()
    if not _UNIT.fullmatch(rest):
        return False
    names = [word.lower() for word in re.findall(r"[^\W\d_]+", text)]
    if rest[:1] != " " and names[0] not in _SHORT_UNITS and len(names[0]) < 4:
        return False  # 5x and 3ab are products
    return all(name not in _NOT_UNITS and (len(name) > 1 or name in _SHORT_UNITS) for name in names)


def _choice(text: str) -> str | None:
    """The letter that a choice names, with or without its text; none when it names several."""
    text = words(text)
    match = _CHOICE.match(text)
    return None if match is None or _HEDGE.match(text, match.end()) else match[1]


def _letters(text: str) -> str:
    return "".join(char for char in words(text).casefold() if char.isalnum())
