"""The one error type that a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: one line that says what is wrong, where, and what to do. The command line exits with code 2."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """A suffix like ``" (did you mean 'steps'?)"``, or the list of choices when nothing is near."""
    options = sorted(str(choice) for choice in choices)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if close:
        return f" (did you mean '{close[0]}'?)"
    return f" (one of: {', '.join(options)})" if options else ""
