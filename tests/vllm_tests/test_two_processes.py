"""vLLM in each of two processes: each samples its share, and what is trained is what one process would train."""

import sys
from pathlib import Path

import pytest

from grpo.config.engine import EngineConfig, RuntimeConfig
from support import runs
from support.models import save_model
from support.processes import TORCHRUN, finish, start
from support.runs import rows_of, task_of
from support.vllm_runs import SMALL, vllm_config

pytestmark = pytest.mark.vllm


def run(model: Path, out: Path, parallel: str) -> None:
    """Three prompts a rollout, so that two processes do not share them evenly."""
    engine = EngineConfig.model_validate({"kind": "vllm", "vllm": {"kv_cache_gib": 0.1}})
    runtime = RuntimeConfig.model_validate({"device": "cpu", "parallel": parallel})
    tasks = {"default": task_of(count=7)}
    runs.run(model, out, vllm_config(steps=6, group_size=4), tasks, engine_config=engine, runtime=runtime)


def test_two_processes_train_what_one_trains(tmp_path):
    """Twice in the same processes (a pipeline starts an engine in every stage), then with sharded weights."""
    model = save_model(tmp_path / "model", initializer_range=0.08, **SMALL)
    run(model, tmp_path / "one", "data")
    done = finish(start(*TORCHRUN, __file__, model, tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    one = rows_of(tmp_path / "one")
    for name in ("data", "data-again", "fsdp"):
        two = rows_of(tmp_path / name)
        for ours, theirs in zip(two, one, strict=True):
            assert ours["reward"] == pytest.approx(theirs["reward"], abs=1e-6), name
            assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4), name
            assert ours["logprob_mismatch_max"] < 1e-4


if __name__ == "__main__":
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    run(folder, out / "data", "data")
    run(folder, out / "data-again", "data")
    run(folder, out / "fsdp", "fsdp")
