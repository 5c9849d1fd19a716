"""The one error type that a user is meant to read, and how its one line is made."""

import difflib
import re
from collections.abc import Iterable

NEAR = 0.5  # likeness from which a word is taken for a misspelling: "nf" for "fn" has just that
# Control characters but newline and tab, the marks that turn the reading direction around, lone surrogates, which have
# no UTF-8, and the two separators that JavaScript takes for line ends.
UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)

IN_ADDRESS = re.compile(r"(?<=://)[^/\s]*@")  # a user, or a password: http://user:password@host


class UserError(Exception):
    """Bad input: one line that says what is wrong, where, and what to do. The command line exits with code 2."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """A suffix like ``" (did you mean 'steps'?)"``, or the list of choices when nothing is near."""
    likeness = {str(c): difflib.SequenceMatcher(None, str(c).lower(), word.lower()).ratio() for c in choices}
    options = sorted(likeness)
    best = max(likeness.values(), default=0.0)
    if best >= NEAR:
        close = " or ".join(f"'{option}'" for option in options if likeness[option] == best)
        return f" (did you mean {close}?)"
    return f" (one of: {', '.join(options)})" if options else ""


def first_line(error: BaseException, *, typed: bool = False) -> str:
    """The first line of what an error says, `typed`: after its type; the type alone when it says nothing."""
    kind, line = type(error).__name__, next(iter(str(error).strip().splitlines()), "")
    return f"{kind}: {line}" if line and typed else line or kind


def describe(error: BaseException) -> str:
    """The type of an error and, when it says something, that as `one_line`."""
    return ": ".join(filter(None, (type(error).__name__, one_line(str(error)))))


def one_line(text: str, limit: int = 300) -> str:
    """`shorten` of a text without line ends."""
    return shorten(" ".join(text.split()), limit)


def shorten(text: str, limit: int = 80) -> str:
    """At most `limit` characters; the last three are dots when some are left out."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def visible(text: str) -> str:
    """The text with every character that acts instead of showing replaced: ESC is ␛, a right-to-left override
    <U+202E>. Newlines and tabs stay."""
    return UNSAFE.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode has a picture of each
    return "␡" if code == 0x7F else f"<U+{code:04X}>"


def public(text: str) -> str:
    """`visible` and `without_password`."""
    return visible(without_password(text))


def without_password(text: str) -> str:
    """The text, its addresses without user and password."""
    return IN_ADDRESS.sub("***@", text)
