"""The code reward: 1.0 when the program in a completion passes its tests, else 0.0.

Where the program stands in the answer is `rewards.code.blocks`; a thought that never ends has no answer. Which tests
there are is `rewards.code.tests`; where programs run and who decides is `rewards.code.sandbox`. What a program writes
is compared by `rewards.code.sandbox.compare`, or by the row's checker, and it must exit with 0.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from grpo.errors import UserError
from rewards.code.blocks import extract_code
from rewards.code.sandbox import plain
from rewards.code.sandbox.compare import same_text
from rewards.code.sandbox.run import Bounds, Isolation, Program, SandboxError, choose, run
from rewards.code.tests import CodeTests, read_tests
from rewards.turns import answers

# What LeetCode's tasks take as imported.
PRELUDE = """\
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
from builtins import pow
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string, sys
"""
_SMALLEST_MB = 64  # an interpreter alone needs about half of it


def code_reward(
    completions: Sequence[Any],
    tests: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    prefill: Sequence[str | None] | None = None,
    *,
    partial: bool = False,
    tolerance: float | None = None,
    unordered: bool = False,
    timeout: float = 6.0,
    memory_mb: int = 512,
    isolation: Isolation = "auto",
    log_error: Callable[[int, str], None] | None = None,
) -> list[float | None]:
    """1.0 for a program that passes all of its tests, else 0.0; None where that cannot be judged.

    Args:
        completions: strings, or lists of messages whose last one is read.
        tests: one entry a row, in a form of `rewards.code.tests`.
        prompts: they tell whether the template opened the thinking: one that never ends has no program.
        prefill: likewise, see `rewards.format.format_reward`.
        partial: give the share of tests that pass instead; those from the first that takes too long on do not.
        tolerance: numbers in outputs, and values of calls, may differ from the expected one by so much, or by that
            share of it where it is above 1; by default they have to be the same text, or the same value.
        unordered: lines of outputs, and items of lists that calls give, may come in any order.
        timeout: seconds for each test: what all processes of a program compute, and what they sleep, without what
            they wait for a processor.
        memory_mb: MiB of memory for all processes of a program.
        isolation: "auto" uses namespaces where the kernel allows, else Landlock and a system call filter with a
            warning, and is refused where it has neither; "namespaces" refuses to do without; "limits" does without.
        log_error: given by the scoring layer, takes (row, reason).

    Raises:
        UserError: an option has no such value, or "auto" finds no walls here.

    >>> code_reward(["```python\\nprint(int(input()) + 1)\\n```"], [[{"input": "1", "output": "2"}]])
    [1.0]
    """
    _check_options(partial, timeout, memory_mb, isolation)
    if isolation == "auto":
        with contextlib.suppress(SandboxError):  # which each row will say
            choose(isolation)
    rules, bounds = Rules(partial, tolerance, unordered), Bounds(timeout, memory_mb)
    rules.check()

    def judge(row: tuple[Any, Any]) -> float | str:
        try:
            return _score(row[0], read_tests(row[1]), bounds, isolation, rules)
        except (ValueError, SandboxError) as error:
            return " ".join(str(error).split())

    with ThreadPoolExecutor(_cpus()) as threads:  # they only wait
        outcomes = list(threads.map(judge, zip(answers(completions, prompts, prefill), tests, strict=True)))
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, str) and log_error is not None:
            log_error(index, outcome)
    return [None if isinstance(outcome, str) else outcome for outcome in outcomes]


@dataclass(frozen=True)
class Rules:
    """What a score is, and what counts as the expected output."""

    partial: bool
    tolerance: float | None
    unordered: bool

    def check(self) -> None:
        number = isinstance(self.tolerance, (int, float)) and not isinstance(self.tolerance, bool)
        if self.tolerance is not None and not (number and 0 < self.tolerance < 1):
            raise UserError(f"reward 'code': tolerance is a number between 0 and 1, or null, not '{self.tolerance}'")
        if not isinstance(self.unordered, bool):
            raise UserError(f"reward 'code': unordered is true or false, not '{self.unordered}'")


def _score(text: str, tests: CodeTests, bounds: Bounds, isolation: Isolation, rules: Rules) -> float:
    """The score of one program.

    Raises:
        SandboxError: it could not be run.
        ValueError: the tests cannot.
    """
    code = extract_code(text, tests.names())
    if code is None:
        return 0.0
    mode = choose(isolation)
    header = PRELUDE if tests.calls else tests.header
    program = Program(code, header, tests.entry_point, stdio=bool(tests.inputs))
    longest = max((len(output.encode("utf-8", "replace")) for output in tests.outputs), default=0)
    bounds = replace(bounds, output=max(bounds.output, 2 * longest))
    results: list[bool] = []

    def enough(report: dict[str, Any]) -> bool:
        if "passed" in report:
            results.append(report["passed"])
        elif "output" in report:
            expected = tests.outputs[len(results)]
            fits = report["ended_well"] and same_text(report["output"], expected, rules.tolerance, rules.unordered)
            results.append(fits)
        return not rules.partial and not all(results)

    reports = run(program, _inside(tests, rules), bounds, mode, partial=rules.partial, enough=enough)
    _check_reports(reports)
    return sum(results) / len(tests) if rules.partial else float(len(results) == len(tests) and all(results))


def _inside(tests: CodeTests, rules: Rules) -> dict[str, Any]:
    """What of the tests enters the sandbox: no expected output, unless a checker judges there."""
    if tests.inputs:
        return {"inputs": tests.inputs} | (
            {"outputs": tests.outputs, "checker": tests.checker} if tests.checker else {}
        )
    if tests.calls:
        calls = [plain.encode(call, _no_value) for call in tests.calls]
        return {"calls": calls, **{name: getattr(tests, name) for name in ("fn_name", "wrapped")}, **asdict(rules)}
    parts = ("setup", "asserts", "check", "entry_point")
    return {part: getattr(tests, part) for part in parts}


def _no_value(value: Any) -> list[Any]:
    raise ValueError(f"tests: {type(value).__name__} is no value that JSON has")


def _check_reports(reports: list[dict[str, Any]]) -> None:
    for report in reports:
        if "broken" in report:
            raise ValueError(f"tests: cannot be run: {report['broken']}")
        if report.get("started") is False:
            raise SandboxError("the program's process did not start")


def _check_options(partial: bool, timeout: float, memory_mb: int, isolation: str) -> None:
    if not isinstance(partial, bool):
        raise UserError(f"reward 'code': partial is true or false, not '{partial}'")
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= 3600:
        raise UserError(f"reward 'code': timeout is a number of seconds up to 3600, not '{timeout}'")
    if isinstance(memory_mb, bool) or not isinstance(memory_mb, int) or memory_mb < _SMALLEST_MB:
        raise UserError(f"reward 'code': memory_mb is a whole number of at least {_SMALLEST_MB}, not '{memory_mb}'")
    if isolation not in get_args(Isolation):
        raise UserError(f"reward 'code': isolation is {', '.join(get_args(Isolation))}, not '{isolation}'")


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
