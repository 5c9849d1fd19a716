"""The tests of a code task: one column, `tests`, and how the known sets map to it.

A row's `tests` is one of these, or its JSON text:

- ``[{"input": "1 2\\n", "output": "3\\n"}, ...]``: the program reads standard input and writes standard output (also
  ``{"inputs": [...], "outputs": [...]}``, or the same in the singular);
- ``["assert add(1, 2) == 3", ...]``: each is a test; ``{"asserts": [...], "setup": "..."}`` with code before each;
- ``{"check": "def check(candidate): ...", "entry_point": "add", "header": "..."}``: one test as HumanEval writes it;
  the header (the prompt: imports, helpers, signature) goes before a completion, and the test may use its helpers.

A name that the tests use and do not define is the program's; "entry_point" says so where it is a builtin's name.

A data set is prepared by one line, `rows = [humaneval_row(row) for row in rows]`; the rows keep their columns and get
`prompt`, `tests`, and `reference`, a program that passes.
"""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rewards.code.sandbox.tester import foreign_names


@dataclass(frozen=True)
class CodeTests:
    """Tests in one form: either inputs with outputs, or asserts, or a check."""

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    asserts: tuple[str, ...] = ()
    setup: str = ""
    check: str | None = None
    entry_point: str = ""
    header: str = ""

    def __len__(self) -> int:
        return len(self.inputs) + len(self.asserts) + (self.check is not None)

    def names(self) -> frozenset[str]:
        """What the tests call of the program."""
        return _names((self.setup, *self.asserts, self.check or ""), self.entry_point)


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
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"tests: not JSON: {error}") from error
    tests = _from_list(value) if isinstance(value, (list, tuple)) else _from_mapping(value)
    if not len(tests):
        raise ValueError("tests: there are none")
    return tests


def mbpp_row(row: Mapping[str, Any], shown: int = 3) -> dict[str, Any]:
    """A row of MBPP, full (`text`) or sanitized (`prompt`, `test_imports`), with `prompt`, `tests` and `reference`.

    `shown` tests are in the prompt, by default as the paper does (arXiv:2108.07732); for training 1, which gives the
    name of the function, keeps a program that only knows the shown answers from passing.
    """
    asserts = list(row["test_list"])
    task = row["text"] if "text" in row else row["prompt"]
    setup = "\n".join([*(row.get("test_imports") or ()), row.get("test_setup_code") or ""]).strip()
    prompt = f"{task}\nYour code should pass these tests:\n\n" + "\n".join(asserts[:shown]) if shown else task
    return {**row, "prompt": prompt, "tests": {"asserts": asserts, "setup": setup}, "reference": row["code"]}


def humaneval_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of HumanEval (arXiv:2107.03374) with `tests` and `reference`; its prompt stays."""
    tests = {"check": row["test"], "entry_point": row["entry_point"], "header": row["prompt"]}
    return {**row, "tests": tests, "reference": row["prompt"] + row["canonical_solution"]}


def _from_list(items: Any) -> CodeTests:
    if all(isinstance(item, str) for item in items):
        return CodeTests(asserts=tuple(items))
    if all(isinstance(item, Mapping) and {"input", "output"} <= item.keys() for item in items):
        return _pairs([item["input"] for item in items], [item["output"] for item in items])
    raise ValueError('tests: a list holds either assert strings or {"input", "output"} pairs')


def _from_mapping(value: Any) -> CodeTests:
    if not isinstance(value, Mapping):
        raise ValueError("tests: missing" if value is None else f"tests: {type(value).__name__} is no form of tests")
    given = {key: item for key, item in value.items() if item is not None}  # columns of a table with other rows' keys
    for one, many in (("input", "output"), ("inputs", "outputs")):
        if given.keys() == {one, many}:
            return _pairs(given[one], given[many])
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


def _pairs(inputs: Any, outputs: Any) -> CodeTests:
    if isinstance(inputs, str) and isinstance(outputs, str):
        inputs, outputs = [inputs], [outputs]
    lists = isinstance(inputs, (list, tuple)) and isinstance(outputs, (list, tuple))
    if not lists or len(inputs) != len(outputs) or not all(isinstance(text, str) for text in (*inputs, *outputs)):
        raise ValueError("tests: inputs and outputs are equally many strings")
    return CodeTests(inputs=tuple(inputs), outputs=tuple(outputs))


def _text(given: Mapping[str, Any], key: str) -> str:
    if not isinstance(given.get(key, ""), str):
        raise ValueError(f"tests: {key} is a string")
    return str(given.get(key, ""))
