r"""Where the gold stands in a solution: after GSM8K's ``####``, or in a ``\boxed{}``. One rule for data and rewards."""

from __future__ import annotations

import re

_BRACES = re.compile(r"(?P<box>(?<!\\)\\+(?:boxed|fbox)\s*\{)|\\\\|\\[{}]|[{}]")
_BARE_BOX = re.compile(  # plain TeX: \boxed 42; not "in \boxed form"
    r"\\(?:boxed|fbox)\s+([-+]?[$]?[.\d][^\s{}$\\]*|[A-Zxyn](?![^\W_]))"
)
_MATH_MARK = r"\$|\\[()\[\]]|\\q?quad(?![a-z])|\\[,;!]"
_OR = r"or|/|\||\\(?:text|mbox|mathrm)\{\s*or\s*\}"
_AND = r"and|\\(?:text|mbox|mathrm)\{\s*,?\s*and\s*\}"
_JOINED = re.compile(rf"(?:[\s,;&]|{_MATH_MARK}|{_AND}|(?P<alternative>{_OR}))*")
_NOTHING_MORE = re.compile(rf"(?:[\s.,;:!*_`'\")\]]|{_MATH_MARK}|<\|[^|<>]*\|>|\\end\{{[a-z]+\*?\}})*")
_HASHES = re.compile(r"####(?!#)[ \t]*([^\n]+)")
_HEADING = re.compile(r"(?i)(?:step|final|answer|solution|conclusion|explanation|verification)\b|\d+\.\s+[a-z]")


_UNREAD = re.compile(r"(?i)(?:proof|not ?found|see .*)\.?")  # NuminaMath's words for "there is none", and people's
_INFINITE = re.compile(r"(?i)\+?(-?)inf(?:inity)?")  # as Python and JSON write it
_CONCLUDED = re.compile(  # a formula of one line, no sentence
    r"(?i)(?=.*\Z)(?:therefore|thus|hence|so),?\s+((?!.*(?<![\\a-z])[a-z]{3}).*[=\d].*?)\.?"
)


def read_gold(text: str) -> str:
    r"""The answer in a gold solution; empty where its text says that there is none.

    GSM8K's form comes first, a last line ``#### 42``; then the last box; then what follows any other ``####``; else the
    text is the answer itself, without a "therefore" before a formula.

    >>> read_gold("Half of \\boxed{84} is\n#### 42"), read_gold("#### Sum\nso \\boxed{42}")
    ('42', '42')
    """
    text = text.strip()
    last_line = text.rpartition("\n")[2].strip()
    hashes = after_hashes(text)
    if hashes and last_line.startswith("####") and last_line.endswith(hashes[-1].strip()):
        return hashes[-1].strip()
    if found := last_boxes(text) or (hashes[-1].strip() if hashes else ""):
        return found
    if infinite := _INFINITE.fullmatch(text):
        return rf"{infinite[1]}\infty"
    concluded = _CONCLUDED.fullmatch(text)
    return "" if _UNREAD.fullmatch(text) else concluded[1] if concluded else text


def after_hashes(text: str) -> list[str]:
    """What follows each ``####`` on its line, Markdown headings left out."""
    return [line for line in _HASHES.findall(text) if line.strip() and not _HEADING.match(line)]


def find_boxes(text: str) -> list[tuple[int, int, str]]:
    """(start, end, content) of every closed box that holds no other box and is not empty; one pass over the text."""
    boxes: list[tuple[int, int, str]] = []
    open_braces: list[tuple[bool, int, int]] = []
    for mark in _BRACES.finditer(text):
        if mark["box"]:
            open_braces.append((True, mark.start(), mark.end()))
        elif mark[0] == "{":
            open_braces.append((False, mark.start(), mark.end()))
        elif mark[0] == "}" and open_braces:
            is_box, start, inside = open_braces.pop()
            content = text[inside : mark.start()] if is_box and not (boxes and boxes[-1][0] > start) else ""
            if content.strip():
                boxes.append((start, mark.end(), content.strip()))
    return boxes


def last_boxes(text: str) -> str | None:
    """The content of the last box; boxes joined only by commas, "and" or space at the very end are one answer."""
    boxes = find_boxes(text)
    if not boxes:
        bare = _BARE_BOX.findall(text)
        return bare[-1] if bare else None
    run, separator = [boxes[-1]], ", "
    at_end = _NOTHING_MORE.fullmatch(text, boxes[-1][1]) is not None
    for box in reversed(boxes[:-1]):
        joined = _JOINED.fullmatch(text, box[1], run[0][0])
        if joined is None or not (at_end or joined["alternative"]):
            break
        separator = " or " if joined["alternative"] else separator
        run.insert(0, box)
    contents = list(dict.fromkeys(content for _, _, content in run))  # the same box twice is one answer
    return separator.join(contents)
