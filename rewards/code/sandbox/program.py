"""Running the candidate's code, in a process that has nothing to protect: as a script, or to answer calls."""

from __future__ import annotations

import ast
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
MAX_OUTPUT = 4 << 20  # bytes of one run


def run_script(code: str) -> NoReturn:
    """Run the code as a script, and end."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays open until the process ends
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
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
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    kept: list[Any] = []

    def keep(value: Any) -> list[Any]:
        kept.append(value)
        return [len(kept) - 1, bool(value)]

    def answer() -> Any:
        operation, reference, *rest = request
        target = kept[reference] if isinstance(reference, int) else module.__dict__[reference]
        return _OPERATIONS[operation](target, *plain.decode(["list", *rest], kept.__getitem__))

    _reply(keep, lambda: _load(code, header, entry_point, module))
    while True:
        try:
            request = plain.receive(REQUESTS)
        except EOFError:
            _leave(0)
        _reply(keep, answer)


class Pump:
    """Feeds a program its input and takes its output."""

    def __init__(self, source: int, output: int, given: bytes) -> None:
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
                self.too_much = len(self.got) > MAX_OUTPUT
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
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - whatever the program has made of these
        status = status or 1
    os._exit(status & 255)


def _execute(code: str, module: types.ModuleType) -> None:
    exec(compile(code, "solution.py", "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - in the sandbox


def _call(target: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return target(*args, **kwargs)


_OPERATIONS: dict[str, Any] = {"call": _call, "get": getattr, "set": setattr, "iterate": iter, "next": next}


def _reply(keep: Callable[[Any], list[Any]], work: Callable[[], Any]) -> None:
    try:
        message = ["value", plain.encode(work(), keep)]
    except BaseException as error:  # noqa: BLE001 - also sys.exit in a call is a failed call
        message = ["error", type(error).__name__]
    try:
        plain.send(REPLIES, message)
    except (ValueError, TypeError, RecursionError, MemoryError):
        plain.send(REPLIES, ["error", "ValueError"])


def _load(code: str, header: str, entry_point: str, module: types.ModuleType) -> None:
    """Run the code; a header (the prompt of a completion task) goes before it, or is its beginning."""
    parts = [code]
    if header:
        parts = [header, code] if _defines(code, entry_point) else [_joined(header, code)]
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
