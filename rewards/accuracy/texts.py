r"""Answers in words: what is text, what is prose, and whether two texts say the same.

Words are compared in their order, with the numbers, signs and relations between them: "x > 3" is not "x < 3", "2.5 and
3" not "25 and 3", HHT not THH. Lists of words are compared without their order. What does not count: case, punctuation,
a leading article.
"""

from __future__ import annotations

import re

from rewards.accuracy.normalise import TEXT, words
from rewards.accuracy.units import WORD

_TOKEN = re.compile(
    r"\d+(?:,\d{3})*(?:\.\d+)?|\\(?:le|ge|ne|approx|pm|infty|in|notin|cup|cap|to|neg)(?![a-z])|[^\W\d_]+|[<>=+*/^%|!~±-]"
)
_ELLIPSIS = re.compile(r"\\[lcdv]?dots[a-z]?(?![a-z])|\.\.\.|…")
_ADJACENT_WORDS = re.compile(r"(?<![^\W\d_])[^\W\d_]{2,}(?:[ ,;:'’]+[^\W\d_]{2,})+")
_JOINS = frozenset(WORD.findall("and or sin cos tan cot sec csc log ln exp sqrt pi if base mod gcd lcm max min"))
_FUNCTIONS = re.compile(
    r"(?<![A-Za-z])(?:sin|cos|tan|cot|sec|csc|log|exp|sqrt|gcd|lcm|max|min|mod|and|or|base)(?![a-z])"
)
_PHRASES = re.compile(
    r"(?:there (?:is|are) )?(?:no|none|infinite(?:ly many)?|not enough|all|every) "
    r"(?:such |real |integer |positive |rational )*"
    r"(?:solutions?|numbers?|values?|integers?|information|reals?|one|exists?|answer)?"
    r"|(?:does|do|did|is|are|can|could)(?: ?not|n't| not) (?:exist|possible|converge|be determined|defined"
    r"|enough information)"
    r"|(?:diverges?|undefined|converges|impossible|not (?:possible|defined|enough information))",
    re.IGNORECASE,
)
_NO_SOLUTION = re.compile(r"(?:there (?:is|are) )?no (?:real |such )*(?:solutions?|values?|roots?)(?: exists?)?", re.I)
_ALL_REALS = re.compile(r"all (?:the )?real(?: number| value)?s?(?:(?: of)? [a-z])?|all (?:values of )?[a-z]", re.I)
_NAME = re.compile(r"[A-Z][a-z'.-]+(?: (?:of |the |de |and )?[A-Z][a-z'.-]+){1,4}")
_LETTERS = re.compile(r"[A-Za-z]{2,}")
_MARKS = re.compile(r"\\(?:overline|overleftrightarrow|angle|triangle|line|widehat|hat|measuredangle)(?![a-z])|[{}]")
# Letters that stand together in a product: ab, xy, kx, mgh; not words such as cat, nor names of points.
_PRODUCT = re.compile(r"[abcd]{2,}|[wxyz]{2,}|[klmnpqrst]{2,3}|[abckmnpr]{1,2}[xyzt]|mgh?|gh|rt|vt|qv|qr")
_WORDS_OF_THOSE = frozenset(
    WORD.findall("bad dad cab dab add ad by my rt nay bay may cay ray pay bat cat mat pat rat at art")
)


def is_text(text: str) -> bool:
    r"""An answer in words: ``\text{Monday}``, ``\text{two lines}``, "New York", or one bare word."""
    wrapped = TEXT.fullmatch(text)
    if wrapped is not None:
        return any(map(str.isalpha, wrapped[1])) and not is_product(wrapped[1])
    opened = words(text)
    if re.fullmatch(r"[^\W\d_]{4,}", opened):
        return True
    return bool(_PHRASES.fullmatch(opened.rstrip(".")) or _NAME.fullmatch(opened)) or is_word(opened)


def is_word(text: str) -> bool:
    """Two letters or more that are no product of variables."""
    return _LETTERS.fullmatch(text) is not None and not is_product(text)


def is_product(text: str) -> bool:
    """Letters whose order is none."""
    return _PRODUCT.fullmatch(text) is not None and text not in _WORDS_OF_THOSE


def is_prose(text: str) -> bool:
    r"""Two or more words in a row that are neither LaTeX nor joins such as "and"."""
    opened = re.sub(r"\\(?:begin|end)\s*\{[a-z]+\*?\}|\\[a-zA-Z]+", "+", words(text))
    runs = (re.findall(r"[^\W\d_]+", run) for run in _ADJACENT_WORDS.findall(opened))
    return any(sum(word.lower() not in _JOINS and not word.isupper() for word in run) >= 2 for run in runs)


def is_formula(text: str) -> bool:
    r"""Whether nothing but mathematics is written: no words that a parser would drop or multiply out."""
    without = re.sub(r"\\(?:begin|end)\s*\{[a-zA-Z]+\*?\}(?:\{[lcr| ]*\})?|\\(?!text|mbox)[a-zA-Z]+", " ", text)
    if any(re.search(r"[^\W\d_]{2,}", inner) for inner in TEXT.findall(text)):
        return False
    if re.search(r"(?<!\^)[-+*/^=<>] ?$", text):  # "5+" is no 5
        return False
    if sum(map(text.count, "([{")) != sum(map(text.count, ")]}")):  # of "5((" the parser reads 5
        return False
    return re.search(r"[a-z]{4,}|__", _FUNCTIONS.sub(" ", without)) is None and not is_prose(without)


def same_name(gold: str, answer: str) -> bool | None:
    r"""Whether two runs of letters are the same in their order (``\overline{AB}`` is AB, BA is not); None: no names."""
    expected, given = (_MARKS.sub("", words(text)).strip() for text in (gold, answer))
    if not (_LETTERS.fullmatch(expected) and _LETTERS.fullmatch(given)):
        return None
    if is_product(expected):
        return None
    return expected.casefold() == given.casefold()


def same_text(gold: str, answer: str) -> bool:
    """Whether two texts say the same."""
    expected, given = tokens(gold), tokens(answer)
    return bool(expected) and (expected == given or _without_article(expected) == _without_article(given))


def set_in_words(text: str) -> str:
    """ "no solution" and "all real numbers" as the sets that they are."""
    said = words(text).rstrip(".")
    if _NO_SOLUTION.fullmatch(said):
        return r"\emptyset"
    return r"\mathbb{R}" if _ALL_REALS.fullmatch(said) else text


def tokens(text: str) -> list[str]:
    """The words, numbers, signs and relations of a text, in order."""
    opened = re.sub(r"(?<=[^\W\d_])-(?=[^\W\d_])", " ", words(text))
    opened = opened.replace(r"\ge", r"\ge ").replace("'", "").replace("’", "")
    return [re.sub(r"(?<=\d),(?=\d)", "", token).casefold() for token in _TOKEN.findall(opened)]


def _without_article(found: list[str]) -> list[str]:
    return found[1:] if found[:1] in (["a"], ["an"], ["the"]) and len(found) > 1 else found


def has_ellipsis(text: str) -> bool:
    """Whether the answer is a sequence that goes on: "1, 2, ..., n"."""
    return _ELLIPSIS.search(text) is not None


def has_alternatives(text: str) -> bool:
    """Whether the answer hedges: "7 or 5"."""
    return re.search(r"(?i)\bor\b", words(text)) is not None
