r"""Where the final answer stands in a completion, or in a gold solution.

Policy: if ``</think>`` occurs only the text after the last one counts, and a thought that never ends has no answer.
Then, in this order: the last non-empty ``\boxed{}``, the last ``#### ...``, the last ``<answer>...</answer>``, the last
final-answer phrase ("the answer is ...", "Answer: ...", "A: ..."). Boxes joined only by commas, "and" or space at the
very end form one answer; boxes joined by "or" are alternatives, which score 0. A number that stands anywhere else is
not an answer, unless `anywhere` is asked for: then, where none of these places holds one, the last formula counts, or
else the last number, or else the last lone letter A to J; for base models, which know no format. Every scan is linear
in the length of the text.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from grpo.data.golds import after_hashes, last_boxes, read_gold
from grpo.data.rows import is_nothing
from grpo.data.said import after_thought

Strict = bool | Literal["box", "answer"]  # True is "box"

_ANSWER_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_PHRASE = re.compile(
    r"(?:\b(?:answer|result|réponse|respuesta|antwort)\b(?:[^.\n:=]{0,60}?\b(?:is|est|es|ist)\b|[*_ ]{0,4}[:=：])"
    r"|\banswer\b(?=\s*(?:\$|\\[(\[]))|\bsolutions?\s+(?:is|are)\b(?=\s*(?:\$|\\[(\[]))"
    r"|^[ \t*]*A:|(?:答案|คำตอบ|ответ|答え)[^\n\d]{0,4}?(?:是|为|คือ|[:=：]|は))",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE_END = re.compile(
    r"[.!?](?=[\s\"”*)]|$)|[。，]|\n|,?\s+(?:because|since|which|where|as)\b|\.?\s*I hope it is", re.IGNORECASE
)
_MATH_CHUNK = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.,])[-+−]?[$€£¥]?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+)?%?")
_LOOSE_NUMBER = re.compile(
    r"(?<![A-Za-z0-9.,^])[-−]?[$€£¥]?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+|/\d+)?%?"
)  # also within "共13只"
_LETTER = re.compile(r"(?<!not )(?<!non )(?<!不是)(?<!不是 )(?<![A-Za-z0-9'])[A-J](?![A-Za-z0-9'])")
_BETWEEN_PRICES = re.compile(r"^[?!.,;:]|\s(?:or|and|to)\s*$")  # of "$5 or $6" it is "5 or"
_NEGATED = re.compile(r"(?i)\b(?:not|isn't|never|wrong|neither)\b")
_MAX_CLAUSE = 2_000  # a phrase is followed by an answer, not by an essay


def extract_answer(text: str, strict: Strict = False, anywhere: bool = False) -> str | None:
    """The final answer in `text`, or None. `strict`: True or "box" reads only the box, "answer" only the tag."""
    text = after_thought(text)
    if strict == "answer":
        return _last_tag(text)
    boxed = last_boxes(text)
    if boxed is not None or strict:
        return boxed
    for find in (_last_hashes, _last_tag, _last_phrase):
        found = find(text)
        if found is not None:
            return found
    return _last_anywhere(text) if anywhere else None


def read_golds(gold: Any) -> list[str]:
    r"""The acceptable answers of a gold of any shape: number, text, solution that ends in a box, ``#### 42`` or "The
    answer is 42", list of those.

    Empty when there is none. Whether each can be understood is for `rewards.accuracy.equality` to say.
    """
    gold = gold.tolist() if hasattr(gold, "tolist") else gold  # numpy's
    if isinstance(gold, (list, tuple)):
        return [text for item in gold for text in read_golds(item)]
    if isinstance(gold, (int, float, str)) and not is_nothing(gold):
        text = str(gold).strip()
        found = read_gold(text)
        found = _last_tag(text) or _last_phrase(text) or text if found == text else found
        return [found] if found else []
    return []


def _last_hashes(text: str) -> str | None:
    found = after_hashes(text)
    return _clause(found[-1]) if found else None


def _last_tag(text: str) -> str | None:
    found = _ANSWER_TAG.findall(text)
    if not found:
        return None
    content = found[-1].strip()
    return last_boxes(content) or _last_phrase(content) or _without_math_marks(content) or None


def _last_phrase(text: str) -> str | None:
    end = max((match.end() for match in _PHRASE.finditer(text)), default=None)
    return None if end is None else _clause(text[end : end + _MAX_CLAUSE])


def _last_anywhere(text: str) -> str | None:
    chunks = [part.strip() for found in _MATH_CHUNK.findall(text) for part in found]
    formulas = [chunk for chunk in chunks if chunk and not _BETWEEN_PRICES.search(chunk)]
    for found in (formulas, _LOOSE_NUMBER.findall(text), _LETTER.findall(text)):
        if found:
            return str(found[-1])
    return None


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
