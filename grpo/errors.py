"""The one error type that a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

NEAR = 0.5  # likeness from which a word is taken for a misspelling: "nf" for "fn" has just that


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
