"""`grpo eval --out` under SIGKILL, in one process and in two that share the problems."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from grpo.data.rows import read_jsonl, write_jsonl
from support.processes import finish, start, two_processes

pytestmark = pytest.mark.slow
PROBLEMS, SAMPLES = 300, 4


@pytest.fixture
def words(tiny_model_folder: Path, tmp_path: Path) -> list[str]:
    rows = [{"question": f"What is {a} + 2?", "answer": str(a + 2)} for a in range(PROBLEMS)]
    write_jsonl(tmp_path / "set.jsonl", rows)
    options = ["--samples", str(SAMPLES), "--temperature", "1", "--max-tokens", "60", "eval.data.template='{prompt}'"]
    settings = ["engine=local", "engine.max_rows=16", "runtime.threads=1", "runtime.device=cpu"]
    model, data = str(tiny_model_folder), str(tmp_path / "set.jsonl")
    return ["-m", "stages.cli", "eval", model, "--data", data, *options, *settings]


def results(out: Path) -> Any:
    metrics = {key: value for key, value in json.loads(out.read_text()).items() if key not in ("seconds", "sha256")}
    return metrics, *(out.with_suffix(f".{part}.jsonl").read_text() for part in ("problems", "completions"))


def killed(process: Any, kept: Path, answers: int) -> int:
    """How many answers it had kept when it was killed."""
    until = time.monotonic() + 200
    while not kept.exists() or kept.read_bytes().count(b"\n") < answers:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return len(read_jsonl(kept)) if kept.read_bytes().endswith(b"\n") else kept.read_bytes().count(b"\n")


def test_a_killed_evaluation_goes_on(words, tmp_path):
    whole, out = tmp_path / "whole.json", tmp_path / "out.json"
    assert finish(start(*words, "--out", whole)).returncode == 0
    kept = tmp_path / "out.json.asked"
    with start(*words, "--out", out) as process:
        before = killed(process, kept, 400)
    assert 400 <= before < PROBLEMS * SAMPLES
    assert not out.exists()
    done = finish(start(*words, "--out", out))
    assert done.returncode == 0, done.stderr
    assert results(out) == results(whole)
    assert not kept.exists()


def test_two_processes_take_what_one_has_kept(words, tmp_path):
    whole, out = tmp_path / "whole.json", tmp_path / "out.json"
    assert finish(start(*words, "--out", whole)).returncode == 0
    with start(*words, "--out", out) as process:
        killed(process, tmp_path / "out.json.asked", 200)
    both = two_processes([*words, "--out", str(out)])
    assert [one.returncode for one in both] == [0, 0], both[0].stderr
    assert results(out) == results(whole)
