"""Running the candidate's code, in a process that has nothing to protect: as a script, or to answer calls."""

from __future__ import annotations

import _sitebuiltins
import ast
import builtins
import functools
import gc
import io
import operator
import os
import select
import sys
import textwrap
import traceback
import types
from collections.abc import Callable
from typing import Any, NoReturn

from . import plain

REQUESTS, REPLIES = 60, 61  # file descriptors


def run_script(code: str) -> NoReturn:
    """Run the code as a script, and end."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays open until the process ends
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout)  # where the program puts others in their place
    _as_interpreter()
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    status = 0
    try:
        _execute(code, module)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does with a script
        traceback.print_exc()
        status = 1
    _leave(status)


def serve(code: str, header: str, entry_point: str) -> NoReturn:
    """Load the code, then answer the tester's calls until it asks no more."""
    _as_interpreter()
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    kept: list[Any] = []

    def keep(value: Any) -> list[Any]:
        kept.append(value)
        try:
            truth = bool(value)
        except Exception:  # noqa: BLE001 - which a test that asks for it will be told
            truth = None
        return [len(kept) - 1, truth, type(value) is types.CoroutineType]

    def find(reference: Any) -> Any:
        if reference is None:
            return None
        if isinstance(reference, str):
            return _named(module, reference)
        return kept[reference] if reference >= 0 else functools.partial(call_back, reference)

    def call_back(reference: int, *args: Any, **kwargs: Any) -> Any:
        """Call a function of the tests; they may ask something before they answer."""
        form = plain.encode([-reference - 1, list(args), kwargs], keep)
        plain.send(REPLIES, ["callback", form])
        while True:
            tag, *rest = request = plain.receive(REQUESTS)
            if tag == "value":
                return plain.decode(rest[0], find)
            if tag == "error":
                raise getattr(builtins, rest[0], RuntimeError)
            answer(request)

    def answer(request: list[Any]) -> None:
        operation, reference, *values = request
        arguments = [plain.decode(value, find) for value in values]
        _reply(keep, lambda: _OPERATIONS[operation](find(reference), *arguments))

    _reply(keep, lambda: _load(code, header, entry_point, module))
    while True:
        try:
            request = plain.receive(REQUESTS)
        except EOFError:
            _leave(0)
        answer(request)


class Pump:
    """Feeds a program its input and takes its output."""

    def __init__(self, source: int, output: int, given: bytes, most: int) -> None:
        self.most = most  # bytes of output
        self.source, self.output, self.given = source, output, memoryview(given)
        self.got, self.too_much, self.feeding, self.taking = bytearray(), False, True, True
        os.set_blocking(source, False)
        os.set_blocking(output, False)

    def move(self, seconds: float) -> None:
        """Wait so long at most for something to move, and move it."""
        takers = [self.source] if self.feeding else []
        select.select([self.output] if self.taking else [], takers, [], seconds)
        if self.feeding:
            self._feed()
        if self.taking:
            self._take()

    def finish(self) -> None:
        """Take what is still in the pipe of a program that has ended."""
        if self.taking:
            self._take()
        os.close(self.output)
        if self.feeding:
            os.close(self.source)

    def text(self) -> str:
        """What the program wrote; nothing when it was too much."""
        return "" if self.too_much else self.got.decode("utf-8", "replace")

    def _feed(self) -> None:
        try:
            while self.given:
                self.given = self.given[os.write(self.source, self.given[:65536]) :]
        except BlockingIOError:
            return
        except OSError:  # it reads no more
            pass
        self.feeding = False
        os.close(self.source)

    def _take(self) -> None:
        try:
            while chunk := os.read(self.output, 65536):
                self.got += chunk
                self.too_much = len(self.got) > self.most
                if self.too_much:
                    return
        except BlockingIOError:
            return
        self.taking = False


def _leave(status: int) -> NoReturn:
    """End as a script ends: its threads, its exit functions, its output."""
    try:
        for name, function in (("threading", "_shutdown"), ("atexit", "_run_exitfuncs")):
            if name in sys.modules:
                getattr(sys.modules[name], function)()
        for file in gc.get_objects():  # also what the program has opened and not closed
            if isinstance(file, io.IOBase) and not file.closed and file.writable():
                file.flush()
    except BaseException:  # noqa: BLE001 - whatever the program has made of these
        status = status or 1
    os._exit(status & 255)


def _as_interpreter() -> None:
    """What a started interpreter has and -S leaves out: exit, quit and the like. Integers of any length are written."""
    sys.set_int_max_str_digits(0)
    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D"))
    for name in ("copyright", "credits", "license"):
        setattr(builtins, name, _sitebuiltins._Printer(name, ""))
    builtins.help = _sitebuiltins._Helper()


def _named(module: types.ModuleType, name: str) -> Any:
    """What the code calls so; else a method of its class Solution, as LeetCode's tasks have it."""
    solution = module.__dict__.get("Solution")
    if name not in module.__dict__ and isinstance(solution, type) and hasattr(solution, name):
        return getattr(solution(), name)
    return module.__dict__[name]


def _execute(code: str, module: types.ModuleType) -> None:
    exec(compile(code, "solution.py", "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - in the sandbox


def _exit(target: Any, kind: str | None) -> Any:
    error = None if kind is None else getattr(builtins, kind, RuntimeError)()
    return type(target).__exit__(target, type(error) if error else None, error, None)


def _await(target: Any) -> Any:
    import asyncio

    return asyncio.run(target)


def _seed(_: None, *args: Any) -> None:
    import random

    random.seed(*args)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in ("lt", "le", "gt", "ge", "eq", "ne", *plain.BINARY, *plain.UNARY)},
    **{kind.__name__: kind for kind in (int, float, str, type)},
    **{function.__name__: function for function in (len, repr, hash, isinstance, next)},
    "await": _await,
    "call": lambda target, args, kwargs: target(*args, **kwargs),
    "change": lambda target, args, kwargs: (target(*args, **kwargs), args),
    "contains": operator.contains,
    "drop": operator.delitem,
    "enter": lambda target: type(target).__enter__(target),
    "exit": _exit,
    "get": getattr,
    "item": operator.getitem,
    "iterate": iter,
    "put": operator.setitem,
    "seed": _seed,
    "set": setattr,
    "unset": delattr,
    "value": lambda target: target,
}


def _reply(keep: Callable[[Any], list[Any]], work: Callable[[], Any]) -> None:
    try:
        message = ["value", plain.encode(work(), keep)]
    except BaseException as error:  # noqa: BLE001 - also sys.exit in a call is a failed call
        message = _error(error)
    try:
        plain.send(REPLIES, message)
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        plain.send(REPLIES, _error(error))


def _error(error: BaseException) -> list[Any]:
    """The names of an exception's classes, and its text."""
    names = ["list", *(kind.__name__ for kind in type(error).__mro__)]
    try:
        text = str(error)[:1000]
    except BaseException:  # noqa: BLE001 - a text of the program's own
        text = ""
    return ["error", ["list", names, text]]


def _load(code: str, header: str, entry_point: str, module: types.ModuleType) -> None:
    """Run the code; a header (the prompt of a completion task) goes before it, or is its beginning."""
    parts = [code]
    if header:
        whole = not entry_point or _defines(code, entry_point)
        parts = [header, code] if whole else [_joined(header, code)]
    for part in parts:
        _execute(part, module)


def _defines(code: str, name: str) -> bool:
    try:
        body = ast.parse(code).body
    except SyntaxError:
        return False
    named = {node.name for node in body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    return name in named | {target.id for target in targets if isinstance(target, ast.Name)}


def _joined(header: str, body: str) -> str:
    """Prompt and continuation; a body that lost its indentation gets it back."""
    body = body.strip("\n")
    return f"{header.rstrip()}\n{body if body[:1].isspace() else textwrap.indent(body, '    ')}\n"
