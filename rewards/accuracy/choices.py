"""Letters of a multiple choice: "B", "(B)", "B. 3 m/s", "Option B", "B, not A"."""

from __future__ import annotations

import re

from rewards.accuracy.normalise import words

_SURE = r"(?:(?:for sure|definitely|clearly|certainly|probably|option|choice|answer|letter|opción|选项|ข้อ)[ :]*)"
_CHOICE = re.compile(  # "(B) 5", "B: 5", and of a sentence "D, it can't be A"
    rf"{_SURE}?[(\[]?([A-J])"
    r"(?=[)\]]?[.:。]?$|[)\]][.:]?\s|[.:]\s|。|, | ?不是"
    r"| (?:not|non|rather than|instead of|because|since|is(?! (?:wrong|incorrect|false|not|out)\b))\b"
    r"| ?[-—] (?=[A-Za-z]{3,}|[A-Za-z]+ [a-z]{2}|\d\S* [a-z])| \((?=[a-z]{2,}|\d\S* ?[a-z]))",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"[)\]]?\.?\s*(?:(?:[,;/&|]\s*(?:or\b|and\b)?|or\b|and\b|(?=\())\s*[(\[]?[A-J](?![\w'])(?!\s+[a-z])"
    r"|[,;/&|]\s*-?[\d\\]|(?:or|and)\b(?! (?:not|it|the|no)\b))"
)  # "A, B", "A or B", "A or 5"


def choice(text: str) -> str | None:
    """The letter that a choice names, with or without its text; none when it names several."""
    text = words(text)
    match = _CHOICE.match(text)
    return None if match is None or not match[1].isupper() or _HEDGE.match(text, match.end(1)) else match[1]


def same_choice(gold: str, answer: str) -> bool | None:
    """Whether two choices name the same letter; None when either is no choice."""
    expected, given = choice(gold), choice(answer)
    return None if expected is None or given is None else expected == given
