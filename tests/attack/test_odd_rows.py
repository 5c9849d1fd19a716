"""Rows that no JSON could hold, from data functions and tables: right, or one line before anything is computed."""

import datetime
import itertools
import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch

from grpo.config.data import DataConfig
from grpo.data import rows as data_rows
from grpo.data.rows import load_rows
from grpo.errors import UserError
from stages.cli import main
from support.command import refused
from support.models import save_model


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


RIGHT = {
    "moment": (datetime.datetime(2026, 1, 2), "2026-01-02 00:00:00"), "decimal": (Decimal("1.50"), "1.50"),
    "text in bytes": (b"abc", "abc"), "scalar": (np.int64(3), 3), "array": (np.ones((2, 1)), [[1.0], [1.0]]),
    "tensor": (torch.tensor([1, 2]), [1, 2]), "tuple": ((1, (2,)), [1, [2]]), "big": (10**4000, 10**4000),
}  # fmt: skip
WRONG = {
    "bytes": b"\xff", "surrogate": "a\ud83d", "deep": nested(100_000), "digits": 10**5000,
    "set": {1}, "object": object(),
    "key": {1: "a"}, "keys": {"a": [{None: float("nan")}]}, "class": int, "generator": (n for n in "ab"),
    "array of bytes": np.array([b"a\xff"]), "complex": 1j, "path": Path("x"),
}  # fmt: skip


def rows_of(*rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_rows, "import_path", lambda *_: lambda: iter(rows))
        return load_rows(DataConfig(fn="my.rows"))


@pytest.mark.parametrize("name", RIGHT)
def test_values_that_are_taken(name):
    value, expected = RIGHT[name]
    assert rows_of({"prompt": "a", "x": value}) == [{"prompt": "a", "x": expected}]


def test_what_is_not_there_stays():
    (row,) = rows_of({"prompt": "a", "answer": float("nan"), "b": None})
    assert str(row) == "{'prompt': 'a', 'answer': nan, 'b': None}"


@pytest.mark.parametrize("name", WRONG)
def test_values_that_are_refused(name):
    """Before: they were taken, and failed in the middle of the run, or were another after a resume."""
    with pytest.raises(UserError, match=r"data function 'my\.rows', row 1: ") as caught:
        rows_of({"prompt": "a"}, {"prompt": "a", "x": WRONG[name]})
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def for_ever():
    return ({"prompt": str(number)} for number in itertools.count())


def test_a_function_that_never_ends(monkeypatch):
    """Before: the memory of the machine."""
    monkeypatch.setattr(data_rows, "MOST_ROWS", 1000)
    with pytest.raises(UserError, match=r"more than 1,000 rows, if it ever ends: set data\.limit"):
        load_rows(DataConfig(fn="attack.test_odd_rows.for_ever"))
    assert len(load_rows(DataConfig(fn="attack.test_odd_rows.for_ever", limit=7))) == 7


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.csv", "t.json", "t.jsonl", "t.jsonl.gz"])
@pytest.mark.parametrize("place", ["cold_start.data", "reasoning_rl.data", "evaluation.math.data"])
def test_a_table_that_cannot_be_read_is_refused_before_the_base_stage(tmp_path, monkeypatch, capsys, name, place):
    """Before: hours later, by the stage that reads it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stages.recipe.pipeline.run_stage", lambda *_: pytest.fail("a stage was run"))
    Path(name).write_bytes(b'prompt,answer\n{"prompt": "a"}\n\xff\xfe{{{,,,\n')
    Path("good.jsonl").write_text(json.dumps({"prompt": "1+1?", "answer": "2"}))
    stage = {"steps": 1, "data": "good.jsonl"}
    tree = {
        "base": {"model": str(save_model(tmp_path / "model"))}, "runtime": {"device": "cpu"}, "engine": "local",
        "cold_start": stage, "reasoning_rl": {**stage, "rewards": ["accuracy"]},
        "rejection_sampling": None, "helpfulness_rl": None,
        "evaluation": {"math": {"data": "good.jsonl", "max_tokens": 4}},
    }  # fmt: skip
    Path("c.yaml").write_text(json.dumps(tree))
    capsys.readouterr()
    code = main(["run", "c.yaml", f"{place}={name}"])
    assert f"{name}'" in refused(capsys, code)
    assert not Path("runs").exists()
