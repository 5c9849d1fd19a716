"""The tests of a code task: one column, `tests`, and how the known sets map to it.

A row's `tests` is one of these, or its JSON text:

- ``[{"input": "1 2\\n", "output": "3\\n"}, ...]``: the program reads standard input and writes standard output (also
  ``{"inputs": [...], "outputs": [...]}``, or the same in the singular);
- ``["assert add(1, 2) == 3", ...]``: each is a test; ``{"asserts": [...], "setup": "..."}`` with code before each;
- ``{"check": "def check(candidate): ...", "entry_point": "add", "header": "..."}``: one test as HumanEval writes it;
  the header (the prompt: imports, helpers, signature) goes before a completion, and the test may use its helpers.

- calls of a function with JSON values: LiveCodeBench's ``[{"input", "output", "testtype": "functional", "fn_name"}]``,
  open-r1's (``"type": "function_call"``), APPS' and TACO's ``{"fn_name", "inputs", "outputs"}``: the function, or the
  method of that name of a class ``Solution``. Where all outputs are lists of one, as APPS wraps them, both readings are
  right, the same one in all tests.

With outputs a "checker" may stand, ``"def check(input, output, expected): ..."``, run in the sandbox: it says which
outputs are right where several are. A name that the tests use and do not define is the program's; "entry_point" says so
where it is a builtin's name. Rows of the known sets: `rewards.code.sets`.
"""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rewards.code.sandbox.tester import foreign_names


@dataclass(frozen=True)
class CodeTests:
    """Tests in one form: either inputs with outputs, or calls, or asserts, or a check."""

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    asserts: tuple[str, ...] = ()
    setup: str = ""
    check: str | None = None
    entry_point: str = ""
    header: str = ""
    checker: str = ""
    fn_name: str = ""
    calls: tuple[tuple[Any, Any], ...] = ()  # arguments and value
    wrapped: bool = False  # whether each value may stand in a list of one

    def __len__(self) -> int:
        return len(self.inputs) + len(self.calls) + len(self.asserts) + (self.check is not None)

    def names(self) -> frozenset[str]:
        """What the tests call of the program."""
        return (
            frozenset({self.fn_name})
            if self.calls
            else _names((self.setup, *self.asserts, self.check or ""), self.entry_point)
        )


@functools.lru_cache(1024)
def _names(sources: tuple[str, ...], entry_point: str) -> frozenset[str]:
    try:
        return frozenset(foreign_names([ast.parse(source) for source in sources if source], entry_point))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # which the sandbox will say
        return frozenset()


def read_tests(value: Any) -> CodeTests:
    """The tests of one row.

    Raises:
        ValueError: there are none, or they have no known form; says what is wrong.
    """
    if isinstance(value, str):
        value = _json(value, "tests")
    tests = _from_list(value) if isinstance(value, (list, tuple)) else _from_mapping(value)
    if not len(tests):
        raise ValueError("tests: there are none")
    return tests


def _from_list(items: Any) -> CodeTests:
    if all(isinstance(item, str) for item in items):
        return CodeTests(asserts=tuple(items))
    if all(isinstance(item, Mapping) and {"input", "output"} <= item.keys() for item in items):
        kinds = {(_function(item), item.get("type") or item.get("testtype")) for item in items}
        if len(kinds) > 1:
            raise ValueError("tests: all of a row read input, or all call the same function")
        name, kind = kinds.pop()
        return _pairs([item["input"] for item in items], [item["output"] for item in items], name, kind)
    raise ValueError('tests: a list holds either assert strings or {"input", "output"} pairs')


def _from_mapping(value: Any) -> CodeTests:
    if not isinstance(value, Mapping):
        raise ValueError("tests: missing" if value is None else f"tests: {type(value).__name__} is no form of tests")
    given = {key: item for key, item in value.items() if item is not None}  # columns of a table with other rows' keys
    for one, many in (("input", "output"), ("inputs", "outputs")):
        if {one, many} <= given.keys() <= {one, many, "checker", "type", "testtype", *_FUNCTION}:
            kind = given.get("type") or given.get("testtype")
            return _pairs(given[one], given[many], _function(given), kind, _text(given, "checker"))
    if "asserts" in given and given.keys() <= {"asserts", "setup", "entry_point"}:
        asserts = given["asserts"]
        if isinstance(asserts, (list, tuple)) and all(isinstance(item, str) for item in asserts):
            setup, entry_point = _text(given, "setup"), _text(given, "entry_point")
            return CodeTests(asserts=tuple(asserts), setup=setup, entry_point=entry_point)
        raise ValueError("tests: asserts is a list of strings")
    if {"check", "entry_point"} <= given.keys() <= {"check", "entry_point", "header"}:
        header = _text(given, "header")
        check, entry_point = _text(given, "check"), _text(given, "entry_point")
        return CodeTests(check=check, entry_point=entry_point, header=header, setup=header)
    raise ValueError(f"tests: no form of tests has the keys {', '.join(sorted(map(str, given)))}")


_FUNCTION = ("fn_name", "func_name", "function_name")
_STDIO, _CALL = (None, "stdin", "stdio", "stdin_stdout", "standard_input"), (None, "functional", "function_call")


def _function(given: Mapping[str, Any]) -> str:
    metadata = given.get("metadata")  # where DeepCoder's rows have it
    given = {**metadata, **given} if isinstance(metadata, Mapping) else given
    name = next((given[key] for key in _FUNCTION if given.get(key)), "")
    if not isinstance(name, str):
        raise ValueError("tests: fn_name is a string")
    return name


def _pairs(inputs: Any, outputs: Any, name: str, kind: Any, checker: str = "") -> CodeTests:
    if kind not in (_CALL if name else _STDIO):
        hint = "names no function: fn_name" if kind in _CALL else "is unknown"
        raise ValueError(f"tests: a test of type {kind!r} {hint}")
    if isinstance(inputs, str) and isinstance(outputs, str) and not name:
        inputs, outputs = [inputs], [outputs]
    if not all(isinstance(one, list | tuple) for one in (inputs, outputs)) or len(inputs) != len(outputs):
        raise ValueError("tests: inputs and outputs are equally many strings")
    if name:
        if checker:
            raise ValueError("tests: a checker judges outputs, not calls")
        calls = tuple(_call(given, wanted, kind) for given, wanted in zip(inputs, outputs, strict=True))
        wrapped = kind != "functional" and all(isinstance(value, list) and len(value) == 1 for _, value in calls)
        return CodeTests(fn_name=name, calls=calls, wrapped=wrapped)
    if checker and "check" not in names_defined(checker):
        raise ValueError("tests: a checker is code that defines check(input, output, expected)")
    texts = [tuple(map(_lines, one)) for one in (inputs, outputs)]
    return CodeTests(inputs=texts[0], outputs=texts[1], checker=checker)


def _lines(text: Any) -> str:
    """APPS has some as lists of lines."""
    if isinstance(text, list | tuple) and all(isinstance(line, str) for line in text):
        return "\n".join(text)
    if not isinstance(text, str):
        raise ValueError("tests: inputs and outputs are equally many strings")
    return text


def _call(given: Any, wanted: Any, kind: Any) -> tuple[list[Any], Any]:
    """The arguments of one call and its value: both as they are, or as JSON; LiveCodeBench's arguments: one a line."""
    if isinstance(given, str):
        wanted = _json(wanted, "tests: a value") if isinstance(wanted, str) else wanted
        try:
            whole = None if kind == "functional" else _json(given, "")
        except ValueError:
            whole = None
        lines = [line for line in given.split("\n") if line.strip()]
        given = whole if isinstance(whole, list) else [_json(line, "tests: an argument") for line in lines]
    if not isinstance(given, list | tuple):
        raise ValueError("tests: the arguments of a call are a list, or JSON")
    return list(given), wanted


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text, parse_int=lambda digits: int(Decimal(digits)))  # int() has a limit of digits
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what}: not JSON: {error}") from error


def names_defined(source: str) -> set[str]:
    """The functions at the top of some code."""
    try:
        return {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()


def _text(given: Mapping[str, Any], key: str) -> str:
    if not isinstance(given.get(key, ""), str):
        raise ValueError(f"tests: {key} is a string")
    return str(given.get(key, ""))
