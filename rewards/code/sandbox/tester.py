"""The trusted side: runs the tests, with a stand-in for everything that the candidate defines.

A test is ordinary Python and is executed here, where the candidate's code never is. A name that a test uses and that
neither it nor the language defines stands for the candidate's: calling it sends the plain arguments over a pipe and
gives a plain value back. So comparisons, `assert`, `math.isclose` and loops are this process's own, and expected values
never leave it.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NoReturn

from . import limits, namespaces, plain
from .candidate import READY
from .compare import same
from .failures import BrokenTest, Failed
from .stand_ins import Candidate, Handle, Named, in_place, is_instance, type_of


def main(job: dict[str, Any], tests: dict[str, Any], candidate: Candidate, report: Callable[[Any], None]) -> None:
    """Run all tests (up to the first that fails, unless `partial`, or that takes too long) and report each."""
    if job["linux"]:
        if job["namespaces"]:
            namespaces.make_root(job["folders"], processes=False)
        namespaces.give_up_privileges(job["tester_user"])
        namespaces.hide_memory()
        namespaces.die_with_parent(signal.SIGKILL)
    limits.set_limits(None, job["memory"], 0)  # tests start no processes
    if plain.receive(candidate.replies) != READY:  # up to here only code of ours has run
        raise OSError("the candidate's process did not start")
    if job["stdio"] and "checker" not in tests:
        for text in tests["inputs"]:
            report(candidate.run(text))
            if candidate.gone:
                return
        return

    def too_long(*_: Any) -> NoReturn:  # what the program gave is more than the test can be done with
        report({"passed": False})
        os._exit(0)

    signal.signal(signal.SIGXCPU, too_long)
    limits.allow_seconds(job["seconds"])
    try:
        if job["stdio"]:
            runs = list(_checked(tests, candidate))
        else:
            runs = list(_calls(tests, candidate) if "calls" in tests else _prepare(tests, candidate))
            candidate.reply()  # that the code is loaded
        for run in runs:
            candidate.clock.next_test()
            limits.allow_seconds(job["seconds"])
            passed = _passes(run)
            report({"passed": passed})
            if not passed and (candidate.gone or not job["partial"]):
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


def _checked(tests: dict[str, Any], candidate: Candidate) -> Iterator[Callable[[], None]]:
    """One function for each input: whether the data set's `check(input, output, expected)` takes the output."""
    own: dict[str, Any] = {"__name__": "tests"}
    exec(compile(_parse(tests["checker"]), "checker", "exec", dont_inherit=True), own)  # noqa: S102 - the data set's

    def run(given: str, expected: str) -> None:
        done = candidate.run(given)
        if not (done["ended_well"] and own["check"](given, done["output"], expected)):
            raise Failed("the checker refuses it")

    for given, expected in zip(tests["inputs"], tests["outputs"], strict=True):
        yield lambda given=given, expected=expected: run(given, expected)  # type: ignore[misc]


def _calls(tests: dict[str, Any], candidate: Candidate) -> Iterator[Callable[[], None]]:
    """One function for each call with the value that it should give. Where data sets wrap values in a list of one, as
    APPS does, one reading has to do for all."""
    readings = {"as it is", "wrapped"} if tests["wrapped"] else {"as it is"}

    def run(args: list[Any], expected: Any) -> None:
        value = candidate.ask("call", tests["fn_name"], args, {})
        fits = {"as it is"} if same(value, expected, tests["tolerance"], tests["unordered"]) else set()
        if tests["wrapped"] and same(value, expected[0], tests["tolerance"], tests["unordered"]):
            fits.add("wrapped")
        if not fits & readings:
            raise Failed("another value")
        readings.intersection_update(fits)

    for form in tests["calls"]:
        args, expected = plain.decode(form, _refuse)
        yield lambda args=args, expected=expected: run(args, expected)  # type: ignore[misc]


def _prepare(tests: dict[str, Any], candidate: Candidate) -> Iterator[Callable[[], None]]:
    """One function for each test; setup code runs anew for each."""
    setup, check, entry = tests["setup"], tests["check"], tests["entry_point"]
    sources = tests["asserts"] if check is None else [check]
    trees = [_FromSolution().visit(_parse(source)) for source in (setup, *sources)]
    if any(not _tests_something(tree) for tree in trees[1:]):
        raise BrokenTest("it tests nothing: it holds no assertion and calls nothing")
    names = foreign_names(trees, entry)
    nodes = [node for tree in trees for node in ast.walk(tree)]
    constants = names - {
        entry,
        *(node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)),
    }
    candidate.exceptions |= {name: type(name, (Failed,), {}) for name in names & _expected(nodes)}
    trees = [_InPlace(tree).visit(tree) for tree in trees]
    _share_seeds(candidate)

    def run(code: Any) -> None:
        own: dict[str, Any] = {"__name__": "tests"}
        own |= {name: importlib.import_module(name) for name in names if name != entry and _is_module(name, trees)}
        stand_ins = {name: _stand_in(candidate, name, constants) for name in names if name not in own}
        own |= stand_ins | candidate.exceptions | {"__in_place__": in_place, "isinstance": is_instance, "type": type_of}
        for part in (compiled[0], code):
            exec(part, own)  # noqa: S102 - the data set's own test, in a sandbox too
            own |= {entry: stand_ins[entry]} if entry else {}  # a header may hold a stub of it
        if check is not None and "check" not in own:
            raise BrokenTest("it defines no check(candidate)")
        if check is not None:
            own["check"](stand_ins[entry])
        else:
            _run_collected(own, trees_of[code])

    compiled = [compile(tree, "tests", "exec", dont_inherit=True) for tree in map(ast.fix_missing_locations, trees)]
    trees_of = dict(zip(compiled, trees, strict=True))
    for code in compiled[1:]:
        yield lambda code=code: run(code)  # type: ignore[misc]


def _run_collected(own: dict[str, Any], tree: ast.Module) -> None:
    """Call what a test only defines for pytest or unittest to find, and does not run itself: else it would pass
    whatever the program is."""
    import unittest

    ran = {name for node in tree.body if isinstance(node, ast.Expr | ast.Assign) for name in names_of(node)}
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name in ran:
            continue
        if isinstance(node, ast.FunctionDef):
            if node.name.startswith("test"):
                _run_alone(own[node.name], node)
            continue
        case = own[node.name]
        for part in node.body:
            if not isinstance(part, ast.FunctionDef) or not part.name.startswith("test"):
                continue
            if isinstance(case, type) and issubclass(case, unittest.TestCase):
                case(part.name).debug()
            elif node.name.startswith("Test"):
                _run_alone(getattr(case(), part.name), part, method=True)


def _run_alone(function: Callable[[], Any], node: ast.FunctionDef, *, method: bool = False) -> None:
    if len(node.args.args) - len(node.args.defaults) > method:
        raise BrokenTest(f"{node.name} takes what pytest would give it")
    function()


def _tests_something(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.Assert | ast.Call | ast.Raise) for node in ast.walk(tree))


class _FromSolution(ast.NodeTransformer):
    """`from solution import f`, as KodCode's tests begin: the names are the program's."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt:
        named = all(alias.asname is None for alias in node.names)
        return ast.Pass() if node.module == "solution" and named else node


def _refuse(*_: Any) -> Any:
    raise ValueError("not a plain value")


def _stand_in(candidate: Candidate, name: str, constants: Collection[str]) -> Any:
    """A function or class; what is never called, and is a plain value, is that value."""
    stand_in = Named(candidate, name)
    if name in constants and name not in candidate.exceptions:
        with contextlib.suppress(Failed):
            value = candidate.ask("value", name)
            return stand_in if isinstance(value, Handle) else value
    return stand_in


def _expected(nodes: Sequence[ast.AST]) -> set[str]:
    """The names of exceptions that the tests catch."""
    kinds = [node.type for node in nodes if isinstance(node, ast.ExceptHandler) and node.type]
    raises = ("assertRaises", "assertRaisesRegex", "raises", "suppress")
    calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    kinds += [call.args[0] for call in calls if call.args and call.func.attr in raises]  # type: ignore[attr-defined]
    return {name for kind in kinds for name in names_of(kind)}


def _share_seeds(candidate: Candidate) -> None:
    """Where a test seeds `random`, the candidate's is seeded too."""
    import random

    own = random.seed

    def seed(*args: Any, **kwargs: Any) -> None:
        own(*args, **kwargs)
        candidate.ask("seed", None, *args)

    random.seed = seed


class _InPlace(ast.NodeTransformer):
    """Calls whose arguments a test looks at afterwards: those whose value it does not use, and those with an argument
    that an assertion compares with something else. Others get copies: a program that empties its argument must not
    make the test compute an empty expectation from it."""

    def __init__(self, tree: ast.AST) -> None:
        tests = [node.test for node in ast.walk(tree) if isinstance(node, ast.Assert)]
        compares = [(_root(test.left), test.comparators) for test in tests if isinstance(test, ast.Compare)]
        self.compared = {name for name, sides in compares if name and not any(name in names_of(side) for side in sides)}

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        if isinstance(node.value, ast.Call):
            node.value = self._looked_at(node.value)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.Assign:
        call = node.value
        if isinstance(call, ast.Call) and any(isinstance(a, ast.Name) and a.id in self.compared for a in call.args):
            node.value = self._looked_at(call)
        return node

    def _looked_at(self, call: ast.Call) -> ast.Call:
        return ast.Call(ast.Name("__in_place__", ast.Load()), [call.func, *call.args], call.keywords)


def names_of(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _root(node: ast.AST) -> str | None:
    """The name in `name[:k]`."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


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
