"""The trusted side: runs the tests, with a stand-in for everything that the candidate defines.

A test is ordinary Python and is executed here, where the candidate's code never is. A name that a test uses and that
neither it nor the language defines stands for the candidate's: calling it sends the plain arguments over a pipe and
gives a plain value back. So comparisons, `assert`, `math.isclose` and loops are this process's own, and expected values
never leave it.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from . import limits, namespaces, plain
from .candidate import READY

_EXCEPTIONS = (  # that a test may expect; StopIteration is not among them, it would silently end a loop of the test
    *("ArithmeticError", "AssertionError", "AttributeError", "IndexError", "KeyError", "LookupError"),
    *("NotImplementedError", "OverflowError", "RuntimeError", "TypeError", "ValueError", "ZeroDivisionError"),
)


class Failed(Exception):
    """The candidate did not answer a call with a value."""


class BrokenTest(Exception):
    """The test cannot be run whatever the candidate is."""


def main(job: dict[str, Any], tests: dict[str, Any], pipes: tuple[int, int], report: Callable[[Any], None]) -> None:
    """Run all tests (up to the first that fails, unless `partial`) and report each."""
    if job["linux"]:
        if job["namespaces"]:
            namespaces.make_root(job["folders"], processes=False)
        namespaces.give_up_privileges(job["tester_user"])
        namespaces.hide_memory()
        namespaces.die_with_parent(signal.SIGKILL)
    limits.set_limits(job["cpu_seconds"], job["memory"], 0)  # tests start no processes
    candidate = _Candidate(*pipes)
    candidate.expect_ready()
    if job["stdio"]:
        for text in tests["inputs"]:
            report(candidate.run(text))
        return
    try:
        runs = list(_prepare(tests, candidate))
        candidate.reply()  # that the code is loaded
        for run in runs:
            passed = _passes(run)
            report({"passed": passed})
            if not passed and not job["partial"]:
                return
    except BrokenTest as error:
        report({"broken": str(error)})
    except Failed:
        report({"passed": False})


def _passes(run: Callable[[], None]) -> bool:
    try:
        run()
    except (NameError, ImportError, SystemExit, BrokenTest) as error:  # the candidate's own are not passed on as such
        raise BrokenTest(f"{type(error).__name__}: {error}") from error
    except Exception:  # noqa: BLE001 - a test fails by any exception
        return False
    return True


def _prepare(tests: dict[str, Any], candidate: _Candidate) -> Iterator[Callable[[], None]]:
    """One function for each test; setup code runs anew for each."""
    setup, check, entry = tests["setup"], tests["check"], tests["entry_point"]
    sources = tests["asserts"] if check is None else [check]
    trees = [_parse(source) for source in (setup, *sources)]
    names = foreign_names(trees, entry)

    def run(code: Any) -> None:
        own: dict[str, Any] = {"__name__": "tests"}
        own |= {name: importlib.import_module(name) for name in names if name != entry and _is_module(name, trees)}
        stand_ins = {name: _Named(candidate, name) for name in names if name not in own}
        own |= stand_ins
        for part in (compiled[0], code):
            exec(part, own)  # noqa: S102 - the data set's own test, in a sandbox too
            own |= {entry: stand_ins[entry]} if entry else {}  # a header may hold a stub of it
        if check is not None:
            own["check"](stand_ins[entry])

    compiled = [compile(tree, "tests", "exec", dont_inherit=True) for tree in trees]
    for code in compiled[1:]:
        yield lambda code=code: run(code)  # type: ignore[misc]


def foreign_names(trees: list[ast.Module], entry_point: str) -> set[str]:
    """What the tests use and nobody but the candidate can define, and the entry point where one is given.

    A candidate's function may have the name of a builtin (MBPP 126 wants its own `sum`): so it is when the tests use no
    other name, and compare that call.
    """
    nodes = [node for tree in trees for node in ast.walk(tree)]
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    defined = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    defined |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    defined |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    defined |= {node.name for node in nodes if isinstance(node, ast.ExceptHandler) and node.name}
    imports = [alias for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names]
    defined |= {alias.asname or alias.name.partition(".")[0] for alias in imports}
    foreign = used - defined - set(dir(builtins)) | ({entry_point} if entry_point else set())
    if foreign:
        return foreign
    left = [node.test.left for node in nodes if isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare)]
    return {call.func.id for call in left if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}


def _is_module(name: str, trees: list[ast.Module]) -> bool:
    """Whether a name that the tests use without importing it is the standard library's, as in `math.isclose`."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    dotted = any(isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == name for n in nodes)
    return dotted and name in sys.stdlib_module_names


def _parse(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise BrokenTest(f"{type(error).__name__}: {error}") from error


class _Candidate:
    """The other end of the pipes."""

    def __init__(self, replies: int, requests: int) -> None:
        self.replies, self.requests, self.gone = replies, requests, False

    def expect_ready(self) -> None:
        """Up to here only code of ours has run: anything else is a sandbox that did not start."""
        if plain.receive(self.replies) != READY:
            raise OSError("the candidate's process did not start")

    def run(self, text: str) -> dict[str, Any]:
        """One run on one input. A keeper that is gone was ended by the program: nobody else can."""
        try:
            plain.send(self.requests, text)
            return dict(plain.receive(self.replies))
        except (OSError, EOFError):
            return {"output": "", "ended_well": False}

    def ask(self, operation: str, reference: str | int, *values: Any) -> Any:
        """What an operation on an object of the candidate's gives; objects without a plain form give a `_Handle`."""
        if self.gone:
            raise Failed("the program has ended")
        try:
            forms = [plain.encode(value, _number) for value in values]
            plain.send(self.requests, [operation, reference, *forms])
        except OSError:
            self.gone = True
            raise Failed("the program has ended") from None
        return self.reply(_Instance if operation == "get" or str(reference)[0].isupper() else _Handle)

    def reply(self, kind: type[_Handle] | None = None) -> Any:
        try:
            tag, form = plain.receive(self.replies)
            value = plain.decode(form, lambda number, truth: (kind or _Handle)(self, int(number), truth is True))
        except Exception as error:
            self.gone = True  # and we may not be of one mind any more about whose turn it is
            raise Failed("no answer") from error
        if tag == "value":
            return value
        raise _failure(value)


def _failure(name: Any) -> Failed:
    """An exception that `except ValueError` catches when that is what the candidate raised."""
    if name in _EXCEPTIONS:
        return type(name, (Failed, getattr(builtins, name)), {})()
    stopped = type("Stopped", (Failed,), {})
    return (stopped if name == "StopIteration" else Failed)(str(name))


def _number(value: Any) -> list[Any]:
    if type(value) in (_Handle, _Instance):
        return [value._reference]
    raise BrokenTest(f"cannot pass a {type(value).__name__} to the candidate")


class _Handle:
    """An object of the candidate's that has no plain form: it can be passed back, iterated over, and is true or false.

    That it is equal to something or contains it would be its own word: only plain values are compared.
    """

    _candidate: _Candidate
    _reference: str | int
    _truth: bool

    def __init__(self, candidate: _Candidate, reference: str | int, truth: bool = True) -> None:
        object.__setattr__(self, "_candidate", candidate)
        object.__setattr__(self, "_reference", reference)
        object.__setattr__(self, "_truth", truth)

    def __bool__(self) -> bool:
        return bool(self._truth)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._candidate.ask("iterate", self._reference)
        if type(iterator) is not _Handle:
            raise Failed("not iterable")
        while True:
            try:
                item = self._candidate.ask("next", iterator._reference)
            except Failed as failure:
                if type(failure).__name__ == "Stopped":
                    return
                raise
            yield item

    def _refuse(self, *_: Any) -> Any:
        raise Failed("not a plain value")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __hash__ = _refuse


class _Instance(_Handle):
    """Of a class that the tests name (`Node(1)`): what its attributes and methods are is the candidate's to say."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._candidate.ask("get", self._reference, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._candidate.ask("set", self._reference, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._candidate.ask("call", self._reference, list(args), kwargs)


class _Named(_Handle):
    """A function or class by its name in the candidate's module."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._candidate.ask("call", self._reference, list(args), kwargs)
