"""Completions are untrusted: what would act on a terminal or a page is made visible, what is too long is cut."""

from __future__ import annotations

import re

# Control characters but newline and tab, the marks that turn the reading direction around, lone surrogates, which have
# no UTF-8, and the two separators that JavaScript takes for line ends.
UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def visible(text: str) -> str:
    """The text with every character that acts instead of showing replaced: ESC is ␛, a right-to-left override
    <U+202E>. Newlines and tabs stay."""
    return UNSAFE.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode has a picture of each
    return "␡" if code == 0x7F else f"<U+{code:04X}>"


def shorten(text: str, limit: int) -> str:
    """At most about `limit` characters: the beginning and the end, where the answer stands, and how many are left
    out between them."""
    if len(text) <= limit:
        return text
    head = limit * 3 // 4
    tail = limit - head
    return f"{text[:head]}\n[… {len(text) - limit:,} characters left out …]\n{text[-tail:]}"


def number(value: float | None) -> str:
    """Four significant digits, or all before the point; "–" for what is not defined."""
    if value is None:
        return "–"
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3g}"
