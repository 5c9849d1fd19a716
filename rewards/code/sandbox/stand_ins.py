"""What stands in the tests for the candidate's functions, classes and objects.

A call sends plain arguments over a pipe and gives a plain value back. What has no plain form stays where it is; its
stand-in asks it for its attributes, items and the like, which are values that the tests then compare. Whether it is
equal to a value, holds it, or differs from it by nothing would be its own word, which counts for nothing: that is only
asked where both are the candidate's objects, of a class that the tests name.
"""

from __future__ import annotations

import os
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

from . import plain
from .failures import BrokenTest, Failed, KeeperFailedError, Stopped, failure
from .watch import Clock

_FUNCTIONS = {abs, all, any, bool, divmod, len, max, min, ord, pow, round, sorted, sum}  # that may be passed
_OF_PLAIN = {name for kind in (str, bytes, list, dict, set, tuple, int, float, complex) for name in dir(kind)}
_ASKED = ("__name__", "__qualname__", "__doc__", "__dict__")


class Candidate:
    """The other end of the pipes."""

    def __init__(self, replies: int, requests: int, keeper: int, clock: Clock) -> None:
        self.replies, self.requests, self.keeper, self.clock, self.gone = replies, requests, keeper, clock, False
        self.exceptions: dict[str, type[Failed]] = {}  # of its own, that the tests expect
        self.functions: list[Callable[..., Any]] = []  # of the tests, that were passed to it

    def run(self, text: str) -> dict[str, Any]:
        """One run on one input."""
        try:
            plain.send(self.requests, text, plain.OURS)
            result = dict(plain.receive(self.replies, plain.OURS))
        except (OSError, EOFError):
            self._lose()
            return {"output": "", "ended_well": False}
        self.gone = result["stopped"]  # one that took too long gets no further input
        return result

    def ask(self, operation: str, reference: str | int | None, *values: Any, level: int = 0) -> Any:
        """What an operation on an object of the candidate's gives; objects without a plain form give a `Handle`."""
        if self.gone:
            raise Failed("the program has ended")
        self._send(lambda: [operation, reference, *(plain.encode(value, self._kept) for value in values)])
        return self.reply(level)

    def reply(self, level: int = 0) -> Any:
        """The next value; functions of the tests that it calls meanwhile are called."""
        while True:
            self.clock.turn(of_program=True)
            try:
                tag, form = plain.receive(self.replies)
                self.clock.turn(of_program=False)
                value = plain.decode(form, lambda *kept: self._handle(level, *kept))
                if tag == "error":
                    names, text = value
                elif tag == "callback":
                    number, args, kwargs = value
                    function = self.functions[number]
            except (OSError, EOFError):
                self._lose()
                raise Failed("the program has ended") from None
            except Exception as error:
                self.gone = True  # and we may not be of one mind any more about whose turn it is
                raise Failed("no answer") from error
            if tag == "value":
                return value
            if tag == "error":
                raise failure(names, text, self.exceptions)
            self._call_back(function, args, kwargs)

    def _lose(self) -> None:
        """The other end is closed: the program has ended, or has ended its keeper, and has failed.

        Raises:
            KeeperFailedError: the keeper did, by itself.
        """
        self.gone = True
        _, status = os.waitpid(self.keeper, 0)
        if os.waitstatus_to_exitcode(status) > 0:
            raise KeeperFailedError

    def _call_back(self, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> None:
        try:
            value = function(*args, **kwargs)
        except BrokenTest:
            raise
        except Exception as error:  # noqa: BLE001 - it is the candidate's to handle
            name = type(error).__name__
            self._send(lambda: ["error", name])
        else:
            self._send(lambda: ["value", plain.encode(value, self._kept)])

    def _send(self, message: Callable[[], list[Any]]) -> None:
        self.clock.turn(of_program=True)
        try:
            plain.send(self.requests, message())
        except OSError:
            self._lose()
            raise Failed("the program has ended") from None

    def _kept(self, value: Any) -> list[Any]:
        if isinstance(value, Handle):
            return [value._reference]
        if type(value) is types.FunctionType or (type(value) is types.BuiltinFunctionType and value in _FUNCTIONS):
            self.functions.append(value)
            return [-len(self.functions)]
        raise BrokenTest(f"cannot pass a {type(value).__name__} to the candidate")

    def _handle(self, level: int, number: Any, truth: Any = True, waits: Any = False) -> Any:
        handle = Handle(self, int(number), truth, level)
        return _awaited(handle) if waits is True else handle


async def _awaited(handle: Handle) -> Any:
    return handle._candidate.ask("await", handle._reference)


class Handle:
    """An object of the candidate's that has no plain form.

    `level`: 0 what a function gave, where the tests may want a plain value; 1 an attribute, or given by something that
    the tests call by a capital; 2 made by what must be a class.
    """

    _candidate: Candidate
    _reference: str | int
    _truth: bool | None
    _level: int

    def __init__(self, candidate: Candidate, reference: str | int, truth: bool | None = True, level: int = 0) -> None:
        for name, value in (("candidate", candidate), ("reference", reference), ("truth", truth), ("level", level)):
            object.__setattr__(self, f"_{name}", value)

    def _ask(self, operation: str, *values: Any, level: int = 0) -> Any:
        return self._candidate.ask(operation, self._reference, *values, level=level)

    def _own_word(self, other: Any = None) -> Any:
        if self._level == 2:
            raise BrokenTest("an object of the program's is compared with a value: that would be its own word")
        raise Failed("not a plain value")

    def _with(self, operation: str, other: Any) -> Any:
        """An operation on two of the candidate's objects, one of a class that the tests name."""
        if not isinstance(other, Handle):
            if not plain.is_plain(other):
                raise BrokenTest(f"an object of the program's is compared with a {type(other).__name__}")
            return self._own_word()
        if not (self._level or other._level):
            raise Failed("not a plain value")
        return self._ask(operation, other, level=1)

    def __bool__(self) -> bool:
        if type(self._truth) is not bool:
            raise Failed("neither true nor false")
        return self._truth

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask("call", list(args), kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _ASKED:
            raise AttributeError(name)
        if name in _OF_PLAIN and name not in _ASKED and not self._level:  # the value that is wanted is a plain one
            raise Failed("not a plain value")
        return self._ask("get", name, level=1)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", name, value)

    def __delattr__(self, name: str) -> None:
        self._ask("unset", name)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", key, level=min(self._level, 1))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("put", key, value)

    def __delitem__(self, key: Any) -> None:
        self._ask("drop", key)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._ask("iterate")
        if type(iterator) is not Handle:
            raise Failed("not iterable")
        while True:
            try:
                item = iterator._ask("next")
            except Stopped:
                return
            yield item

    def __next__(self) -> Any:
        try:
            return self._ask("next")
        except Stopped:
            raise StopIteration from None

    def __enter__(self) -> Any:
        return self._ask("enter", level=min(self._level, 1))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        """It may not swallow a failed assertion, nor its own failure."""
        swallows = self._ask("exit", kind.__name__ if kind else None)
        return swallows is True and not isinstance(error, AssertionError | Failed | BrokenTest)

    def __len__(self) -> int:
        return _whole(self._ask("len"))

    def __int__(self) -> int:
        return _whole(self._ask("int"))

    __index__ = __int__

    def __float__(self) -> float:
        value = self._ask("float")
        if type(value) is not float:
            raise Failed("no number")
        return value

    def __str__(self) -> str:
        return str(self._ask("str"))

    def __repr__(self) -> str:
        return str(self._ask("repr"))

    def __hash__(self) -> int:
        return _whole(self._ask("hash")) if self._level else self._own_word()

    def __contains__(self, item: Any) -> bool:
        return bool(self._with("contains", item))

    def __eq__(self, other: object) -> Any:
        return self._with("eq", other)

    def __ne__(self, other: object) -> Any:
        return self._with("ne", other)


class Named(Handle):
    """A function or class by its name in the candidate's module."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = str(self._reference)
        level = 2 if re.fullmatch("[A-Z][A-Za-z0-9]*", name) else int(name[:1].isupper())
        return self._ask("call", list(args), kwargs, level=level)


def _operations() -> Iterator[tuple[str, Callable[..., Any]]]:
    """The operators of two objects, and of one."""
    for name in ("lt", "le", "gt", "ge", *plain.BINARY):
        yield f"__{name.strip('_')}__", lambda self, other, name=name: self._with(name, other)
    for name in plain.BINARY:
        yield f"__r{name.strip('_')}__", lambda self, other: self._with("", other)  # of a value: refused
    for name in plain.UNARY:
        yield f"__{name}__", lambda self, name=name: self._ask(name, level=min(self._level, 1))


for _name, _function in _operations():
    setattr(Handle, _name, _function)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise Failed("no number")
    return value


def in_place(function: Any, *args: Any, **kwargs: Any) -> Any:
    """A call whose arguments are looked at afterwards: they become what the candidate has made of them."""
    if not isinstance(function, Handle):
        return function(*args, **kwargs)
    value, after = function._ask("change", list(args), kwargs)
    for given, changed in zip(args, after, strict=True):
        if type(given) is type(changed) is list:
            given[:] = changed
        elif type(given) is type(changed) and isinstance(given, dict | set):
            given.clear()
            given.update(changed)
    return value


def type_of(*args: Any) -> Any:
    """`type` in a test."""
    return args[0]._ask("type", level=1) if len(args) == 1 and isinstance(args[0], Handle) else type(*args)


def is_instance(value: Any, kind: Any) -> bool:
    """`isinstance` in a test."""
    if isinstance(kind, tuple):
        return any(is_instance(value, one) for one in kind)
    if isinstance(kind, Handle):
        return isinstance(value, Handle) and value._ask("isinstance", kind) is True
    return isinstance(value, type if kind is type_of else kind)
