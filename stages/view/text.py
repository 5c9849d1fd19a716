"""Completions are untrusted: what would act on a terminal or a page is made visible, what is too long is cut."""

from __future__ import annotations


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
