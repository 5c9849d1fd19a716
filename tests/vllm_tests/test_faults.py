"""A run with vLLM that is killed and stopped, in processes of its own: on a CPU it ends bitwise as the one left alone.
Both engines; this file is also the script of those processes."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from grpo.checkpoint.store import last_good
from grpo.config.engine import EngineConfig
from stages.commands.common import guarded
from support.processes import finish, start
from support.runs import before, rows_of, run
from support.vllm_runs import tasks, vllm_config

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]

SETTINGS: dict[str, Any] = {"steps": 8, "rollout_prompts": 6, "loss": {"beta": 0.05}, "reference_every": 3}
# (signal, phase, the how-manieth of it, how it ends); the run goes on from one to the next
MOMENTS = [
    (signal.SIGTERM, "sampling", 2, 143),
    (signal.SIGKILL, "update", 3, -9),
    (signal.SIGINT, "update", 1, 130),
]


def main(model: str, out: Path, engine: dict[str, Any], number: int, phase: str, count: int) -> int:
    """Train, and send this process the signal then. 0: never."""
    from grpo import trainer
    from grpo.engines.vllm.in_process import VllmEngine
    from grpo.engines.vllm.servers import ServerEngine

    left = count

    def strike(delay: float) -> None:
        nonlocal left
        left -= 1
        if left == 0 and number:
            threading.Timer(delay, os.kill, (os.getpid(), number)).start()
            time.sleep(0.0 if delay else 0.5)  # in an update the signal comes before the first forward

    patch = pytest.MonkeyPatch()  # for good
    if phase == "update":
        before(patch, trainer, "update", lambda *_, **__: strike(0.0))
    for kind in (VllmEngine, ServerEngine) if phase == "sampling" else ():
        before(patch, kind, "generate", lambda *_, **__: strike(0.01))
    config = vllm_config(**SETTINGS, checkpoint={"every": 2})
    chosen = EngineConfig.model_validate(engine)

    def command(_: list[str]) -> int:
        run(Path(model), out, config, tasks(), engine_config=chosen)
        return 0

    return guarded(command, [])


def attempt(model: Path, out: Path, engine: dict[str, Any], number: int = 0, phase: str = "", count: int = 0) -> Any:
    return finish(start(__file__, model, out, json.dumps(engine), int(number), phase, count))


def left_in(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"metrics": rows_of(out)}
    for file in [*(out / "completions").iterdir(), out / "model" / "model.safetensors"]:
        found[file.name] = file.read_bytes()
    return found


def interrupted(model: Path, folder: Path, engine: dict[str, Any]) -> None:
    done = attempt(model, folder / "alone", engine)
    assert done.returncode == 0, done.stderr[-2000:]
    for number, phase, count, code in MOMENTS:
        done = attempt(model, folder / "run", engine, number, phase, count)
        assert done.returncode == code, (number, done.stderr[-2000:])
        if code > 0:
            assert done.stderr.splitlines()[-1] == f"stopped by {number.name}: the same command goes on from here"
        assert last_good(folder / "run" / "checkpoints") is not None
    done = attempt(model, folder / "run", engine)
    assert done.returncode == 0, done.stderr[-2000:]
    ours, theirs = left_in(folder / "run"), left_in(folder / "alone")
    assert [row["step"] for row in ours["metrics"]] == list(range(1, 9))
    assert ours == theirs


def test_vllm_in_this_process(folder, tmp_path):
    interrupted(folder, tmp_path, {"kind": "vllm", "vllm": {"kv_cache_gib": 0.1}})


def test_two_vllm_servers(folder, tmp_path):
    """Which server draws which group changes from run to run; what is drawn does not."""
    from support.vllm_runs import config_for, serving

    with serving(folder, tmp_path / "served", 2) as served:
        interrupted(folder, tmp_path, config_for(served).model_dump(mode="json"))


if __name__ == "__main__":
    model, out, engine, number, phase, count = sys.argv[1:]
    sys.exit(main(model, Path(out), json.loads(engine), int(number), phase, int(count)))
