r"""What is said around values: names (``x = 5``), relations, solutions joined by "or", both signs, qualifications.

An equation gives its right-hand side only where the left names it: x, f(x), AB, the angle A. ``2x = 5`` is not solved.
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise

from rewards.accuracy.normalise import matching, words
from rewards.accuracy.numbers import parse_value

_INDEX = r"(?: ?_ ?(?:\{[^{}]*\}|\w)|')*"
_GREEK = (
    r"\\(?:alpha|beta|gamma|delta|epsilon|varepsilon|theta|lambda|mu|nu|rho|sigma|tau|phi|varphi|omega|ell|eta|xi"
    r"|kappa)(?![a-zA-Z])"
)
_LETTER = rf"(?:[A-Za-z]|{_GREEK}|[αβγδεθλμνρστφωΔΩ]){_INDEX}"
_ARGUMENT = r"\((?:[^()=<>]|\([^()]*\))*\)"
_WORD = r"[A-Za-z][a-z]{3,}|sum|min|max|ans|age|cost|area|gcd|lcm"
_SAID = rf"(?:{_WORD}|of|the|a|is|in|{_LETTER})"
_NAME = re.compile(
    rf"\\?(?:Delta|angle|triangle|measuredangle|m ?\\angle|overline|vec|hat|bar)? ?\{{? ?{_LETTER} ?\}}?"
    rf"(?:{_ARGUMENT})?|(?:m ?)?\\angle ?[A-Z]{{0,3}}|\\?(?:overline|triangle|widehat)? ?\{{?[A-Z]{{2,4}}\}}?"
    r"|\|[A-Z]{1,3}\||\[[A-Z]{3,6}\]"
    rf"|{_SAID}(?: {_SAID}){{0,5}}|\({_LETTER}(?: ?, ?{_LETTER})*\)"
    rf"|\\(?:P|Pr|E|Var|gcd|lcm|max|min|deg|dim|det)(?![a-z]) ?{_ARGUMENT}"
    rf"|\\text ?\{{[^{{}}\d+*/=<>^-]*\}}(?:_\{{[^{{}}]*\}})?"
)
_RELATION = re.compile(r"<|>|=|\\(?:le|ge|ne|lt|gt|equiv|in|approx|sim)(?![a-z])|≡")
_ORDER = re.compile(r"<|>|\\(?:le|ge|lt|gt|ne)(?![a-z])")
_BUILDER = re.compile(rf"\\\{{ ?({_LETTER}) ?(?:\\in ?\\mathbb ?\{{?R\}}? ?)?(?:\\mid(?![a-z])|\||:) ?(.*?) ?\\\}}")
_SETS = r"\\in(?![a-z]) ?(?:\\mathbb ?\{?[A-Z]\}?|[ZNRQℤℕℝ])(?: ?[\^_] ?\{?[+*\d]\}?)*"
_DOMAIN = re.compile(  # "..., k in Z", "... (n >= 1)"
    rf"(?P<value>.*[^\s,;(]) ?(?:[,;] ?(?P<one>{_LETTER}) ?{_SETS}"
    rf"|\( ?(?P<other>{_LETTER}) ?(?:{_SETS}|(?:\\ge|>) ?\d+) ?\))",
    re.DOTALL,
)
_MEMBER = re.compile(rf"(?P<name>{_LETTER}) ?\\in(?![a-z]) ?(?=[\[({{\\])")
_WHERE = re.compile(
    r",?[ (]*\b(?:for (?:all|any|every|each|some|arbitrary)|where|with|for) (?P<tail>.*)$"
    r"|,?[ (]*\\forall(?P<rest>.*)$",
    re.DOTALL,
)
_SECOND_CASE = re.compile(r"(?i)\b(?:otherwise|else|if|when|for|or|not)\b|;")
_OR = re.compile(r"(?i)[,;]? ?\bor\b ?")
_NUMERIC = re.compile(r"(?:[\d\s＄.,+\-*/^(){}%]|\\(?:frac|sqrt|times|cdot|pi|div|binom)(?![a-z]))+")


def outermost(text: str, pattern: str = r"[,;]") -> list[str]:
    """`text` cut where `pattern` occurs outside of all brackets; one pass."""
    parts, depth, begin = [], 0, 0
    for mark in re.finditer(rf"(?P<open>[(\[{{])|(?P<close>[)\]}}])|(?P<cut>{pattern})", text):
        depth += bool(mark["open"]) - bool(mark["close"])
        if mark["cut"] and depth == 0:
            parts.append(text[begin : mark.start()])
            begin = mark.end()
    return [part.strip() for part in [*parts, text[begin:]]]


def items(text: str) -> list[str]:
    """The parts of a list that is no tuple: "1, 2 and 3", ``\\{1,2,3\\}``, "x=1 or x=2"; one where it is none."""
    text = words(text)
    braces = re.fullmatch(r"\\\{(.*)\\\}", text, re.DOTALL)
    inner = braces[1] if braces and r"\}" not in braces[1] else text
    found = outermost(_OR.sub(", ", inner), r"[,;]? ?\band\b|;|(?<!\d),|,(?!\d{3}(?!\d))")  # not in 14,000
    return [part for part in found if part]


def is_list(text: str) -> bool:
    """Whether it holds several solutions."""
    return len(items(text)) > 1 or re.search(r"\\(?:pm|mp|cup)(?![a-z])", text) is not None


def or_parts(text: str) -> list[str]:
    """What "or" joins."""
    return [part.strip(" ,") for part in _OR.split(words(text)) if part.strip(" ,")]


def both_signs(text: str) -> str:
    r"""``3 \pm 2`` as the list "3 + 2, 3 - 2"; every ± of an item is read alike."""
    if not re.search(r"\\(?:pm|mp)(?![a-z])", text):
        return text
    out = []
    for part in items(text):
        value = split_name(part)[1]
        for plus, minus in (("+", "-"), ("-", "+")):
            signed = re.sub(r"\\mp(?![a-z]) ?", minus, re.sub(r"\\pm(?![a-z]) ?", plus, value))
            out.append(re.sub(r"(^|[{(=]) ?\+", r"\1", signed))
    return ", ".join(dict.fromkeys(out))


def without_conditions(text: str) -> str:
    """Without "for all real x", "where n is ...", "(for n >= 1)", ", k in Z"; what distinguishes cases stays."""
    opened = words(text)
    domain = _DOMAIN.fullmatch(opened)
    if domain is not None and (domain["one"] or domain["other"]) in domain["value"]:
        return domain["value"].rstrip()
    match = _WHERE.search(opened)
    if match is None or match.start() == 0:
        return text
    tail = match["tail"] or match["rest"] or ""
    return text if _SECOND_CASE.search(tail) else opened[: match.start()].strip().rstrip(",")


def split_name(text: str) -> tuple[str, str]:
    """(name, value) of ``name = value``; an empty name where the text is nothing of the kind.

    Of a chain ``m+n = 256+37 = 293`` with numbers after the first sign, the value is the last.
    """
    member = _MEMBER.match(text)
    if member:
        return member["name"].replace(" ", ""), text[member.end() :].strip()
    if "=" not in text:
        return "", text
    sides = outermost(text, "(?<![<>!:])=|≡")
    if len(sides) < 2 or not all(sides) or any(_ORDER.search(side) for side in sides):
        return "", text
    if all(map(_NUMERIC.fullmatch, sides[1:])) and (len(sides) > 2 or _NUMERIC.fullmatch(sides[0])):
        return (sides[0], sides[-1]) if may_be_equal(sides) else ("", text)
    if len(sides) == 2 and _NUMERIC.fullmatch(sides[0]) and is_name(sides[1]):
        return words(sides[1]).replace(" ", ""), sides[0]
    if is_name(sides[-2]) and (len(sides) == 2 or _NUMERIC.fullmatch(sides[-1])):
        return words(sides[-2]).replace(" ", ""), sides[-1]
    return "", text


def may_be_equal(sides: list[str]) -> bool:
    """Whether those of the sides that are numbers of one unit are the same, rounded: no chain is 7 = 5."""
    values = [value for value in map(parse_value, sides) if value is not None and not value.percent]
    numbers = [(Fraction(a.number), Fraction(b.number)) for a, b in pairwise(values) if a.unit == b.unit]
    return all(20 * abs(a - b) <= abs(b) for a, b in numbers)


def is_name(text: str) -> bool:
    """Whether `text` names a quantity, or a ratio of two."""
    parts = [part.strip() for part in words(text).split(":")]
    return all(_NAME.fullmatch(part) and not _is_factors(part) for part in parts)


_CALLED = ("sum", "min", "max", "ans", "age", "gcd", "lcm")  # names of quantities all the same


def _is_factors(name: str) -> bool:
    """xy, 2x: letters that are multiplied; but not AB."""
    return re.fullmatch(r"[a-z]{2,3}", name) is not None and name not in _CALLED


def is_relation(text: str) -> bool:
    """Whether an equation or inequality is written, outside of brackets."""
    return len(outermost(text, _RELATION.pattern)) > 1


def as_set(text: str) -> tuple[str, str] | None:
    r"""(name, intervals) of inequalities of one name, joined by "or": ``x<-1 or x>2``; None of anything else."""
    builder = _BUILDER.fullmatch(text)
    text = builder[2] if builder else text
    if not _ORDER.search(text) or r"\cup" in text:
        return None
    found = [_interval(part) for part in or_parts(text)]
    names = {name for name, _ in filter(None, found)}
    if None in found or len(names) != 1:
        return None
    return names.pop(), r" \cup ".join(interval for _, interval in filter(None, found))


def _interval(text: str) -> tuple[str, str] | None:
    sides = outermost(text, _ORDER.pattern)
    signs = _ORDER.findall(text)
    if len(signs) != len(sides) - 1 or not all(sides) or any(re.search(r"[,=]", side) for side in sides):
        return None
    less = [sign in ("<", r"\le", r"\lt") for sign in signs]
    closed = [sign in (r"\le", r"\ge") for sign in signs]
    if r"\ne" in signs and len(signs) > 1:
        return None
    if len(sides) == 3 and less[0] == less[1] and re.fullmatch(_LETTER, sides[1]):
        low, high, left, right = sides[0], sides[2], closed[0], closed[1]
        if not less[0]:
            low, high, left, right = high, low, right, left
        return sides[1], f"{'(['[left]}{low}, {high}{')]'[right]}"
    if len(sides) != 2:
        return None
    if _is_letter(sides[1]) and not _is_letter(sides[0]):
        sides, less = sides[::-1], [not less[0]]
    name, value = sides
    absolute = re.fullmatch(rf"\\?\|({_LETTER})\\?\|", name)
    if absolute:
        if less[0]:
            return absolute[1], f"{'(['[closed[0]]}-({value}), {value}{')]'[closed[0]]}"
        ends = f"{')]'[closed[0]]}", f"{'(['[closed[0]]}"
        return absolute[1], rf"(-\infty, -({value}){ends[0]} \cup {ends[1]}{value}, \infty)"
    if not re.fullmatch(_LETTER, name):
        return None
    if signs[0] == r"\ne":
        return name, rf"\mathbb{{R}} \setminus \{{{value}\}}"
    if less[0]:
        return name, rf"(-\infty, {value}{')]'[closed[0]]}"
    return name, rf"{'(['[closed[0]]}{value}, \infty)"


def _is_letter(text: str) -> bool:
    return re.fullmatch(rf"{_LETTER}|\\?\|{_LETTER}\\?\|", text) is not None


def balanced(text: str) -> bool:
    """Whether the first bracket closes at the end."""
    return bool(text) and text[0] in "([{" and matching(text, 0) == len(text) - 1


def has_scaled_tuple(text: str) -> bool:
    """Whether a tuple is multiplied, divided or added to, as in (1, 2)/3: the worker's parser reads a part of that."""
    for part in outermost(text, r"[,;=]|\\(?:cup|cap|setminus|in|to)(?![a-z])"):
        start = re.search(r"[(\[]", part)
        end = matching(part, start.start()) if start else -1
        if start is None or end < 0 or len(outermost(part[start.end() : end])) < 2:
            continue
        if part[end + 1 :].strip() or re.search(r"[\d+\-*/.]$", part[: start.start()].strip()):
            return True
    return False
