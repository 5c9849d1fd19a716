"""How a test ends that does not pass, and what it learns of an exception that the candidate raised."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any

_EXCEPTIONS = (  # that a test may expect; StopIteration is not among them, it would silently end a loop of the test
    *("ArithmeticError", "AssertionError", "AttributeError", "IndexError", "KeyError", "LookupError"),
    *("NotImplementedError", "OverflowError", "RuntimeError", "TypeError", "ValueError", "ZeroDivisionError"),
)


class Failed(Exception):
    """The candidate did not answer a call with a value."""


class Stopped(Failed):
    """An iterator of the candidate's has ended."""


class BrokenTest(Exception):
    """The test cannot be run whatever the candidate is."""


class KeeperFailedError(BaseException):
    """What stands between the program and us has ended by an error of its own; no test may catch that."""


def failure(names: Any, text: Any, expected: Mapping[str, type[Failed]]) -> Failed:
    """An exception that `except ValueError` catches when that is what the candidate raised.

    Args:
        names: of its class and that class's bases, as the candidate says.
        text: its message.
        expected: the candidate's own exceptions that the tests name.
    """
    if not isinstance(names, list):
        names = []
    own: list[Any] = [expected[name] for name in names if name in expected]
    builtin: list[Any] = [getattr(builtins, name) for name in names if name in _EXCEPTIONS][:1]
    if own or builtin:
        bases = tuple(own) + (() if own else (Failed,)) + tuple(builtin)
        raised: Failed = type(str(names[0]), bases, {})(str(text))
        return raised
    return (Stopped if "StopIteration" in names else Failed)(str(names[:1]))
