"""Signals to torchrun, as the scheduler and Ctrl-C send them: its processes stop together, and go on as left alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults.launched import mark
from faults.torture import SHARDED, attempt, different_files, fingerprint
from grpo.checkpoint.store import last_good
from support.processes import ROOT, TORCHRUN, start, two_processes

HERE = Path(__file__).resolve().parent


def torchrun(*arguments: object) -> subprocess.Popen[str]:
    """Started; see launched.py. All runs that are compared are: in pytest's own process, or a fork of it, the checks of
    shapes draw from the generator that the reward uses."""
    return start(*TORCHRUN, HERE / "launched.py", *arguments, apart=True)


def wait_for_mark(process: subprocess.Popen[str], out: Path) -> None:
    while not mark(out, "here").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("kind", "number", "event", "count"),
    [("full", signal.SIGTERM, "reward", 2), ("full" + SHARDED, signal.SIGINT, "update", 5)],
    ids=["scheduler", "Ctrl-C, sharded"],
)
def test_the_processes_of_torchrun_stop_together(kind, number, event, count, tiny_model_folder, tmp_path):
    out = tmp_path / "run"
    alone = torchrun(tiny_model_folder, tmp_path / "alone", kind, "nothing", 1)
    process = torchrun(tiny_model_folder, out, kind, event, count)
    wait_for_mark(process, out)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    time.sleep(0.5)
    mark(out, "go").touch()
    _, said = process.communicate(timeout=120)
    assert [mark(out, f"code-{rank}").read_text() for rank in (0, 1)] == [str(128 + number)] * 2
    assert said.count(f"stopped by {number.name}: the same command goes on from here") == 1
    assert last_good(out / "checkpoints") is not None
    again = torchrun(tiny_model_folder, out, kind, "nothing", 1)
    for other in (alone, again):
        other.communicate(timeout=120)
        assert other.returncode == 0
    assert different_files(fingerprint(out), fingerprint(tmp_path / "alone"), exact=False) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_second_signal_ends_torchruns_processes_at_once(tiny_model_folder, tmp_path):
    out = tmp_path / "run"
    process = torchrun(tiny_model_folder, out, "full", "update", 7)
    wait_for_mark(process, out)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1.5)  # after what counts as an echo of the first one
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert time.monotonic() - began < 5  # of the 8 seconds that the update takes
    assert not mark(out, "code-0").exists()
    assert last_good(out / "checkpoints") is not None
    assert attempt(tiny_model_folder, out, "full", 2, None)


STARVED = """
import os, torch
from pathlib import Path
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from grpo.system.world import World

world, core = World.current(), {min(os.sched_getaffinity(0))}
distribute_tensor(torch.ones(4), init_device_mesh("cpu", (2,)), [Shard(0)])  # as sharded weights: the group stays
os.sched_setaffinity(0, core)
threads = [t for t in Path("/proc/self/task").iterdir() if "gloo_runloop" in (t / "comm").read_text()]
assert threads
for thread in threads:
    os.sched_setaffinity(int(thread.name), core)
    os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
for _ in range(20):
    world.gather(list(range(1000)))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="threads of their own priority")
def test_a_process_waits_for_gloos_threads_before_it_ends():
    """They run only when nothing else does; without the wait about every third process aborts."""
    for _ in range(5):
        for process in two_processes(["-c", STARVED], PYTHONPATH=str(ROOT)):
            assert process.returncode == 0, process.stderr
