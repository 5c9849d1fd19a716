"""`grpo view` and `grpo compare` of damaged files: what is there is shown, or one line says what is wrong."""

import json
import random

import pytest

from grpo.evaluation.result import EvalResult
from grpo.system.records import write_record
from stages.cli import main
from support.command import refused
from support.files import flip
from support.view_run import RESULTS, SFT, make_run

VALUES = [None, 0, -1, 1e308, "x", [], {}, [1], [[]], {"a": 1}, True, 10**30, 10**400, "\ud800"]
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


def test_results_edited_by_hand_are_not_shown(tmp_path, capsys):
    """Before: the page had the summary's, and the caption those of eval.json."""
    run = make_run(tmp_path / "run")
    write_record(run / SFT / "manifest.json", {"seconds": 70.0, "metrics": RESULTS})
    summary = run / "summary.json"
    summary.write_text(summary.read_text().replace('"pass@1": 0.5', '"pass@1": 0.97'))
    assert main(["view", str(run), "--html", str(tmp_path / "page.html")]) == 0
    assert "97" not in (tmp_path / "page.html").read_text().partition("<table")[2].partition("</table>")[0]
    for name in ("manifest.json", "eval.json"):
        file = run / SFT / name
        write_record(file, {"temperature": 0.5, "metrics": RESULTS, "seconds": 70.0})
        whole = file.read_text()
        file.write_text(whole.replace("0.5", "0.9", 1))
        capsys.readouterr()
        code = main(["view", str(run), "--html", str(tmp_path / "page.html")])
        assert f"{name}' was edited or damaged after it was written" in refused(capsys, code)
        file.write_text(whole)


SETTINGS = {"samples_per_problem": 1, "temperature": 0.6, "top_p": 0.95, "max_tokens": 8, "format_required": True}


@pytest.fixture
def evaluated(tmp_path):
    rows = [{"id": str(n), "part": "math", "judged": True, "pass@1": float(n > 2)} for n in range(6)]
    EvalResult({"data_hash": "a", "pass@1": 0.5, **SETTINGS}, rows, []).write(tmp_path / "a.json")
    return tmp_path / "a.json"


@pytest.mark.parametrize("name", ["a.json", "a.problems.jsonl"])
def test_an_evaluation_that_was_edited_is_not_compared(evaluated, capsys, name):
    """Before: it was."""
    file, words = evaluated.with_name(name), ["compare", str(evaluated), str(evaluated)]
    assert main(words) == 0
    capsys.readouterr()
    for place in (0, 30, -3):
        whole = file.read_bytes()
        flip(file, place)
        assert f"{name}' was edited or damaged" in (line := refused(capsys, main(words))) or "a.json': damaged" in line
        file.write_bytes(whole)
    file.write_text(file.read_text().replace("0.0", "1.0").replace("0.6", "0.7"))
    assert f"{name}' was edited or damaged after it was written" in refused(capsys, main(words))


@pytest.mark.parametrize("count", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_damaged_evaluations_of_older_versions(evaluated, capsys, count):
    """Which have no checksum. Before: tracebacks."""
    settings = json.loads(evaluated.read_text())
    evaluated.write_text(json.dumps({name: value for name, value in settings.items() if "sha256" not in name}))
    draw, codes = random.Random(count), set()
    for _ in range(count):
        file = draw.choice([evaluated, evaluated.with_name("a.problems.jsonl")])
        whole = damage(file, draw)
        codes.add(code := main(["compare", str(evaluated), str(evaluated)]))
        said = capsys.readouterr()
        assert code in (0, 2), (file.read_bytes(), said.err)
        assert said.err.count("\n") == (code == 2)
        assert "nan" not in said.out
        assert "inf" not in said.out
        file.write_bytes(whole)
    assert codes == {0, 2}
