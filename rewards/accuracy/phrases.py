"""Phrases that give a final answer, in several languages, and the answer in the sentence around it."""

from __future__ import annotations

import re

from rewards.accuracy.normalise import plain
from rewards.accuracy.numbers import parse_value
from rewards.accuracy.units import WORD, number_word

_NO_LETTER = r"(?<![^\W_])"
_DIRECT = r"[\s:*_$(]{0,6}(?:[-+]?\d|\\|(?-i:[A-J])(?![^\W_]))"  # the answer itself
_MARK = r"[*_ ]{0,4}[:=：]"
# Of the first kind that occurs with an answer behind it, the last one counts.
_PHRASES = (
    re.compile(
        rf"(?:{_NO_LETTER}(?<!this )(?<!each )(?<!every )(?<!your )(?<!whose )(?<!any )(?:answer|réponse|respuesta"
        rf"|antwort|risposta|resposta)(?![^\W_])"
        rf"(?:[^.\n:=]{{0,60}}?\b(?:is|est|es|ist|is:|é|là)\b|(?:(?!not\b|n't|never)[^.\n:=]){{0,60}}?\b(?:be|was|equals)\b"
        rf"(?={_DIRECT})"
        rf"|[^.\n:=]{{0,60}}? è |{_MARK})"
        r"|\banswer\b(?=\s*(?:\$|\\[(\[]))|^(?:[^\w\n]|_)*(?:the )?(?:final )?answer[*_ ]*\n+"
        rf"|(?:答案|คำตอบ|ответ|答え|답|đáp án|উত্তর|jibu|సమాధానం)[^\n\d]{{0,4}}?"
        r"(?:是|为|คือ|[:=：]|は|는|은|là\b|\bni\b))",
        re.IGNORECASE | re.MULTILINE,
    ),
    re.compile(
        rf"{_NO_LETTER}(?<!this )(?<!each )result\b(?:[^.\n:=]{{0,60}}?\bis\b|{_MARK})"
        r"|\bsolutions?\s+(?:is|are)\b(?=\s*(?:\$|\\[(\[]))|\b(?:option|choice)(?:\s+is\b|:)"
        r"|\b(?:correct|right|best|true) (?:statement|one|response|alternative|answer choice) is\b"
        r"|(?<!不)(?<!别)(?<!不[能应该])选(?:项|择)?[:：]?"
        r"(?=[\s*(（]{0,4}(?-i:[A-J])(?![^\W_]))"
        r"|(?<!not )(?<!n't )(?<!never )(?<!not to )\b(?:choose|select|pick|go with)(?: (?:option|choice|answer))?"
        r"(?=[\s*(]{1,5}(?-i:[A-J])[)*]{0,3}(?:[.,:;]|\s*$))"
        r"|(?<![\w(])(?=\(?(?-i:[A-J])\)? is (?:the )?(?:correct|right|best)\b)",
        re.IGNORECASE | re.MULTILINE,
    ),
    re.compile(r"^[ \t*]*A:", re.MULTILINE),
)
_SENTENCE_END = re.compile(
    r"[.!?](?=[\s\"”*)]|$)|[。，]|\n|,?\s+\(?(?:because|since|which|where|as)\b|\.?\s*I hope it is", re.IGNORECASE
)
_MATH_CHUNK = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.,])[-+−]?[$€£¥]?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+)?%?")
_NEGATED = re.compile(r"(?i)\b(?:not|isn't|never|wrong|neither)\b")
_INSTEAD = re.compile(r"(?i)(?<=\S),?\s+(?:(?:and|but)\s+)?(?:not|rather than|instead of)\s")
_COMMENT = re.compile(
    r"(?i)(?:\W*(?:correct|right|wrong|helpful|clear|obvious|simple|unique|found|given|known|reasonable|below|above|as"
    r"|follows|here|in|the|form|format|boxed|therefore|thus|now|so|yes)\b)+\W*"
)
_BEFORE = re.compile(
    r"(?i)(?:(?:an|the|about|approximately|around|exactly|just|only|simply|equals?|to|is|are|was|were|be|that|there"
    r"|he|she|they|it|we|you|has|have|had|will|would|can|total|of|number|value|answer|still|all|now|thus|so|therefore"
    r"|then|left|in|result|final|[a-z])\b[\s,:*_]*+)*+[=:≈~*_\s]*"
)
_IN_THE_WAY = frozenset(
    WORD.findall(
        "more less fewer times plus minus remainder factorial squared cubed half to through until between mod over "
        "divided multiplied or than not power root by first last next but bigger larger smaller higher lower"
    )
)
_CHANGING = frozenset(
    WORD.findall(
        "more less fewer greater than twice thrice half double triple least most over under above below times first "
        "last next every each sum product difference quotient root square cube minus negative plus by between up at "
        "almost nearly near close step equation any except different unlike"
    )
)
_TALK = re.compile(  # "the answer is found by adding"
    r"(?i)(?:found|given|obtained|computed|calculated|derived|reached|determined|expressed|written|shown|supported|based"
    r"|consistent|independent|verified|checked|clearly|simply|the (?:same|one|sum|product|difference))\b[^\d\\$=<>+^]*"
)
_SUM = re.compile(r"[\d\s+\-*/×÷().,$]+=(?=[^=]*$)")  # before its value
_MAX_CLAUSE = 2_000  # a phrase is followed by an answer, not by an essay
_MAX_PHRASES = 20  # that are looked at, from the last


def last_phrase(text: str) -> str | None:
    """The answer that the last phrase with an answer gives. A phrase that says what the answer is not takes it back."""
    fallback: str | None = None
    for pattern in _PHRASES:
        ends = [match.end() for match in pattern.finditer(text)][-_MAX_PHRASES:]
        refused: list[str] = []
        for end in reversed(ends):
            found = clause(text[end : end + _MAX_CLAUSE])
            if found is None or _COMMENT.fullmatch(found) or _TALK.fullmatch(found):
                continue
            if re.match(r"(?i)(?:definitely |certainly )?(?:not|never)\b|isn't\b", found):
                refused.append(found)
            elif _is_sentence(found):
                fallback = fallback or found
            else:
                return None if any(re.search(rf"(?<!\w){re.escape(found)}(?!\w)", no) for no in refused) else found
        fallback = fallback or (refused[0] if refused else None)
    return fallback


def clause(text: str) -> str | None:
    """The answer at the start of what follows a marker: a formula, or the rest of the sentence."""
    text = text.lstrip(" \t\n\r:：*_=\"'“`")
    display = re.match(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]", text, re.DOTALL)
    if display:
        return (display[1] or display[2]).strip() or None
    end = _SENTENCE_END.search(text)
    found = text[: end.start()] if end else text
    return from_prose(found.lstrip(" \t*_\"'`,;:").rstrip(" \t*_\"'`.,;:")) or None


def from_prose(sentence: str) -> str:
    """A sentence around one formula, or around one number, gives that; anything else stays as it is."""
    instead = _INSTEAD.search(sentence)
    if instead and not _NEGATED.search(sentence[: instead.start()]):  # "42 and not 41", "D rather than B"
        sentence = sentence[: instead.start()].rstrip(" ,")
    around = _MATH_CHUNK.sub(" ", sentence)
    if _SUM.match(sentence) and _has_prose(around):
        return from_prose(sentence.rpartition("=")[2].strip())
    if not _has_prose(around):
        arithmetic = re.fullmatch(r"[\d\s+\-*/×÷().,$]+=[\d\s+\-*/×÷().,$=]+", sentence)
        value = sentence.rpartition("=")[2]
        return without_math_marks((value if "(" in value else value.replace(")", "")) if arithmetic else sentence)
    if _NEGATED.search(around) or re.search(r"\bor\b", around):
        return without_math_marks(sentence)
    chunks = list(_MATH_CHUNK.finditer(sentence))
    found = chunks if chunks else list(_NUMBER.finditer(sentence))
    if not chunks and len(found) != 1:
        return sentence
    last = found[-1]
    value = next(filter(None, last.groups()), "").strip() if chunks else last[0]
    return _with_what_follows(sentence, last.start(), last.end(), value) or without_math_marks(sentence)


def _with_what_follows(sentence: str, start: int, end: int, value: str) -> str | None:
    """The value of a sentence with its unit; None where the words around it make something else of it."""
    before, after = sentence[:start], re.split(r"[,;(]", sentence[end:], maxsplit=1)[0]
    if not _BEFORE.fullmatch(_MATH_CHUNK.sub("x", before)):
        told = {word.lower() for word in re.findall(r"[^\W\d_]+", before)}
        if told & _CHANGING or not re.match(r" (?!of|in|is|are|was|has|to|on|at|and|or)[a-z]{2,}", after):
            return None  # "in chapter 5", "more than 5 hours"; but "they began 5 hours ago"
    if re.match(r"[^\s\w%°-]|-\S*\d|(?:st|nd|rd|th)\b", after):  # 1+f(), the 7th
        return None
    whole = f"{value}{after}".rstrip()
    if parse_value(plain(whole)) is not None:
        return whole
    words = [word.lower() for word in re.findall(r"[^\W\d_]+", after)]
    if any(word in _IN_THE_WAY or number_word(word) is not None for word in words):
        return None
    return value


def _is_sentence(text: str) -> bool:
    """Whether it is talk: words, with no number, formula or choice among them."""
    return re.search(r"[\d\\$=<>+^]|\b[A-Z]\b", text) is None and len(text.split()) > 3


def _has_prose(text: str) -> bool:
    words = re.findall(r"[^\W\d_]{2,}", re.sub(r"\\[a-zA-Z]+", " ", text))
    return any(word.lower() not in ("and", "or") for word in words)


def without_math_marks(text: str) -> str:
    """Without the dollar signs and brackets of formulas."""
    return re.sub(r"(?<!\\)\$|\\[()\[\]]", "", text).strip(" \t\n*").rstrip(" .*")
