"""`grpo view` of damaged run folders: what is there is shown, or one line says what is wrong."""

import json
import random

import pytest

from stages.cli import main
from support.view_run import make_run

VALUES = [None, 0, -1, 1e308, "x", [], {}, [1], [[]], {"a": 1}, True, 10**30, "\ud800"]
WAYS = (["--html", "page.html"], [], ["--reward", "accuracy<0.5"])


def other(value, draw):
    """The same JSON with another thing, or nothing, somewhere in it."""
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(list(value))
        if draw.random() < 0.85:
            return {**value, key: other(value[key], draw)}
        return {name: item for name, item in value.items() if name != key}
    if isinstance(value, list) and value and draw.random() < 0.8:
        place = draw.randrange(len(value))
        return [*value[:place], other(value[place], draw), *value[place + 1 :]]
    return draw.choice(VALUES)


def damage(file, draw):
    whole = file.read_bytes()
    how = draw.randrange(4)
    if how == 0:
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
    elif how == 1:
        file.write_bytes(whole[: draw.randrange(len(whole))])
    elif file.suffix == ".jsonl":
        rows = other([json.loads(line) for line in whole.splitlines()], draw)
        file.write_text("".join(json.dumps(row) + "\n" for row in (rows if isinstance(rows, list) else [rows])))
    else:
        file.write_text(json.dumps(other(json.loads(whole), draw)))
    return whole


@pytest.mark.parametrize(("seed", "count"), [(0, 40), pytest.param(1, 1500, marks=pytest.mark.slow)])
def test_a_damaged_run_folder(seed, count, tmp_path, monkeypatch, capsys):
    """Before: 54 of 523 were tracebacks."""
    monkeypatch.chdir(tmp_path)
    files = [file for file in make_run(tmp_path / "run").rglob("*") if file.is_file()]
    draw = random.Random(seed)
    for _ in range(count):
        file = draw.choice(files)
        whole = damage(file, draw)
        for way in WAYS:
            code = main(["view", "run", *way])
            said = capsys.readouterr().err
            assert code in (0, 2), (file.read_bytes()[:400], said)
            assert said.count("\n") <= 1
        file.write_bytes(whole)
