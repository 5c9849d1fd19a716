"""The code reward: 1.0 when the program in a completion passes its tests, else 0.0.

Where the program stands in the answer is `rewards.code.blocks`; a thought that never ends has no answer. Which tests
there are is `rewards.code.tests`; where programs run and who decides is `rewards.code.sandbox`. What a program writes
is compared line by line without the blanks at the end of lines and of the text, and it must exit with 0.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

from grpo.errors import UserError
from rewards.code.blocks import extract_code
from rewards.code.sandbox.run import Bounds, Isolation, Program, SandboxError, choose, run
from rewards.code.tests import CodeTests, read_tests
from rewards.turns import answers

_SMALLEST_MB = 64  # an interpreter alone needs about half of it


def code_reward(
    completions: Sequence[Any],
    tests: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    prefill: Sequence[str | None] | None = None,
    *,
    partial: bool = False,
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
        partial: give the share of tests that pass instead; those that the time does not suffice for do not.
        timeout: seconds of wall time for a program with all of its tests; each process gets as much CPU time.
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
    bounds = Bounds(timeout, memory_mb)

    def judge(row: tuple[Any, Any]) -> float | str:
        try:
            return _score(row[0], read_tests(row[1]), bounds, isolation, partial)
        except (ValueError, SandboxError) as error:
            return " ".join(str(error).split())

    with ThreadPoolExecutor(_cpus()) as threads:  # they only wait
        outcomes = list(threads.map(judge, zip(answers(completions, prompts, prefill), tests, strict=True)))
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, str) and log_error is not None:
            log_error(index, outcome)
    return [None if isinstance(outcome, str) else outcome for outcome in outcomes]


def _score(text: str, tests: CodeTests, bounds: Bounds, isolation: Isolation, partial: bool) -> float:
    """The score of one program.

    Raises:
        SandboxError: it could not be run.
        ValueError: the tests cannot.
    """
    code = extract_code(text, tests.names())
    if code is None:
        return 0.0
    mode = choose(isolation)
    program = Program(code, tests.header, tests.entry_point, stdio=bool(tests.inputs))
    results: list[bool] = []

    def enough(report: dict[str, Any]) -> bool:
        if "passed" in report:
            results.append(report["passed"])
        elif "output" in report:
            expected = tests.outputs[len(results)]
            results.append(report["ended_well"] and _lines(report["output"]) == _lines(expected))
        return not partial and not all(results)

    reports = run(program, _inside(tests), bounds, mode, partial=partial, enough=enough)
    _check_reports(reports)
    return sum(results) / len(tests) if partial else float(len(results) == len(tests) and all(results))


def _inside(tests: CodeTests) -> dict[str, Any]:
    """What of the tests enters the sandbox: no expected output."""
    if tests.inputs:
        return {"inputs": tests.inputs}
    parts = ("setup", "asserts", "check", "entry_point")
    return {part: getattr(tests, part) for part in parts}


def _check_reports(reports: list[dict[str, Any]]) -> None:
    for report in reports:
        if "broken" in report:
            raise ValueError(f"tests: cannot be run: {report['broken']}")
        if report.get("started") is False:
            raise SandboxError("the program's process did not start")


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


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
