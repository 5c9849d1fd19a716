r"""Where the final answer stands in a completion, or in a gold solution.

Policy: if ``</think>`` occurs only the text after the last one counts. Then, in this order: the last non-empty
``\boxed{}``, the last ``#### ...``, the last ``<answer>...</answer>``, the last final-answer phrase ("the answer is
...", "Answer: ...", "A: ..."). Boxes joined only by commas, "and" or space at the very end form one answer; boxes
joined by "or" are alternatives, which score 0. A number that stands anywhere else is not an answer. Every scan is
linear in the length of the text.
"""

from __future__ import annotations

import re
from typing import Any, Literal

Strict = bool | Literal["box", "answer"]  # True is "box"

_BRACES = re.compile(r"(?P<box>\\+(?:boxed|fbox)\s*\{)|\\\\|\\[{}]|[{}]")
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s+([^\s{}$\\]+)")  # plain TeX: \boxed 42
_MATH_MARK = r"\$|\\[()\[\]]|\\q?quad(?![a-z])|\\[,;!]"
_OR = r"or|\\(?:text|mbox|mathrm)\{\s*or\s*\}"
_AND = r"and|\\(?:text|mbox|mathrm)\{\s*,?\s*and\s*\}"
_JOINED = re.compile(rf"(?:[\s,]|{_MATH_MARK}|{_AND}|(?P<alternative>{_OR}))*")
_NOTHING_MORE = re.compile(rf"(?:[\s.,;:!*_`'\")\]]|{_MATH_MARK}|<\|[^|<>]*\|>|\\end\{{[a-z]+\*?\}})*")
_HASHES = re.compile(r"####(?!#)[ \t]*([^\n]+)")
_HEADING = re.compile(r"(?i)(?:step|final|answer|solution|conclusion|explanation|verification)\b|\d+\.\s+[a-z]")
_ANSWER_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_PHRASE = re.compile(
    r"(?:\b(?:answer|result|réponse|respuesta|antwort)\b(?:[^.\n:=]{0,60}?\b(?:is|est|es|ist)\b|[*_ ]{0,4}[:=：])"
    r"|\banswer\b(?=\s*(?:\$|\\[(\[]))|^[ \t*]*A:|(?:答案|คำตอบ|ответ|答え)[^\n\d]{0,4}?(?:是|为|คือ|[:=：]|は))",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE_END = re.compile(
    r"[.!?](?=[\s\"”*)]|$)|[。，]|\n|,?\s+(?:because|since|which|where|as)\b|\.?\s*I hope it is", re.IGNORECASE
)
_MATH_CHUNK = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.,])[-+−]?[$€£¥]?\d+(?:,\d{3})*(?:\.\d+)?%?")
_NEGATED = re.compile(r"(?i)\b(?:not|isn't|never|wrong|neither)\b")
_MAX_CLAUSE = 2_000  # a phrase is followed by an answer, not by an essay


def extract_answer(text: str, strict: Strict = False) -> str | None:
    """The final answer in `text`, or None. `strict`: True or "box" reads only the box, "answer" only the tag."""
    text = text.rpartition("</think>")[2]
    if strict == "answer":
        return _last_tag(text)
    boxed = _last_boxes(text)
    if boxed is not None or strict:
        return boxed
    for find in (_last_hashes, _last_tag, _last_phrase):
        found = find(text)
        if found is not None:
            return found
    return None


def read_golds(gold: Any) -> list[str]:
    r"""The acceptable answers of a gold of any shape: number, text, ``#### 42``, ``\boxed{}`` solution, list of those.

    Empty when there is none. Whether each can be understood is for `rewards.judging` to say.
    """
    if isinstance(gold, (list, tuple)):
        return [text for item in gold for text in read_golds(item)]
    if isinstance(gold, (int, float, str)):
        text = str(gold).strip()
        found = _last_boxes(text) or _last_hashes(text) or _last_tag(text) or text
        return [found] if found else []
    return []


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


def _last_boxes(text: str) -> str | None:
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


def _last_hashes(text: str) -> str | None:
    found = [line for line in _HASHES.findall(text) if not _HEADING.match(line)]
    return _clause(found[-1]) if found else None


def _last_tag(text: str) -> str | None:
    found = _ANSWER_TAG.findall(text)
    if not found:
        return None
    content = found[-1].strip()
    return _last_boxes(content) or _last_phrase(content) or _without_math_marks(content) or None


def _last_phrase(text: str) -> str | None:
    end = max((match.end() for match in _PHRASE.finditer(text)), default=None)
    return None if end is None else _clause(text[end : end + _MAX_CLAUSE])


def _clause(text: str) -> str | None:
    """The answer at the start of what follows a marker: a formula, or the rest of the sentence."""
    text = text.lstrip(" \t\n\r:：*_=\"'“`")
    display = re.match(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]", text, re.DOTALL)
    if display:
        return (display[1] or display[2]).strip() or None
    end = _SENTENCE_END.search(text)
    clause = text[: end.start()] if end else text
    return _from_prose(clause.lstrip(" \t*_\"'`,;:").rstrip(" \t*_\"'`.,;:")) or None


def _from_prose(clause: str) -> str:
    """A sentence around one formula, or around one number, gives that; anything else stays as it is."""
    around = _MATH_CHUNK.sub(" ", clause)
    if not _has_prose(around):
        arithmetic = re.fullmatch(r"[\d\s+\-*/×÷().,$]+=[\d\s+\-*/×÷().,$=]+", clause)
        return _without_math_marks(clause.rpartition("=")[2] if arithmetic else clause)
    chunks = [first or second or third for first, second, third in _MATH_CHUNK.findall(clause)]
    alternatives = re.search(r"\bor\b", around)
    if _NEGATED.search(around) or alternatives:
        return _without_math_marks(clause)
    if chunks:
        return str(chunks[-1]).strip()
    numbers: list[str] = _NUMBER.findall(clause)
    return numbers[0] if len(numbers) == 1 else clause


def _has_prose(text: str) -> bool:
    words = re.findall(r"[^\W\d_]{2,}", re.sub(r"\\[a-zA-Z]+", " ", text))
    return any(word.lower() not in ("and", "or") for word in words)


def _without_math_marks(text: str) -> str:
    return re.sub(r"(?<!\\)\$|\\[()\[\]]", "", text).strip(" \t\n*").rstrip(" .*")
