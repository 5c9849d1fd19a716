"""Rows of the known sets with `tests`, and `reference`, a program that passes, where the set has one.

A data set is prepared by one line, `rows = [humaneval_row(row) for row in rows]`; the rows keep their columns and get
`prompt` and `tests`.
"""

from __future__ import annotations

import base64
import json
import pickletools
import zlib
from collections.abc import Mapping
from typing import Any


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


def apps_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of APPS or TACO: `question`, `starter_code`, and `input_output`, which holds the tests as JSON."""
    return {**row, "prompt": _asked(row["question"], row.get("starter_code")), "tests": row["input_output"]}


def code_contests_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of CodeContests: `description`, and public, private and generated tests."""
    parts = [row.get(f"{kind}_tests") or {} for kind in ("public", "private", "generated")]
    tests = {name: [text for part in parts for text in part.get(name) or ()] for name in ("input", "output")}
    return {**row, "prompt": row["description"], "tests": tests}


def livecodebench_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of LiveCodeBench: `question_content`, `starter_code`, public and private tests, `metadata` with the name of
    the function."""
    metadata = json.loads(row.get("metadata") or "{}")
    items = [*_tests(row["public_test_cases"]), *_tests(row.get("private_test_cases") or "[]")]
    tests = [{**item, "fn_name": metadata.get("func_name")} for item in items]
    return {**row, "prompt": _asked(row["question_content"], row.get("starter_code")), "tests": tests}


def _asked(question: str, starter: str | None) -> str:
    return f"{question}\n\nBegin with this code:\n```python\n{starter.strip()}\n```" if starter else question


def _tests(text: str) -> list[dict[str, Any]]:
    """A list as JSON, or as LiveCodeBench packs its private tests: base64 of zlib of a pickled text, which is read
    without unpickling.

    Raises:
        ValueError: it is neither.
    """
    if not text.lstrip().startswith("["):
        steps = pickletools.genops(zlib.decompress(base64.b64decode(text)))
        text = next((argument for _, argument, _ in steps if isinstance(argument, str)), "")
    items = json.loads(text)
    if not isinstance(items, list):
        raise ValueError("the tests are no list")
    return items
