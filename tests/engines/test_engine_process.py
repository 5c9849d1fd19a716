"""The process that samples ahead: it gives what the embedded engine gives, and its end is told, whatever it is."""

import os
import signal
import subprocess
from dataclasses import replace
from typing import Any

import psutil
import pytest

from grpo.engines.local import process as engine_process
from grpo.engines.local.engine import LocalEngine
from grpo.engines.local.process import ProcessEngine, ending
from grpo.errors import UserError
from grpo.model.policy import load_policy
from grpo.types import Sampling
from support.ahead import ahead_of, put_inside, run_ahead
from support.groups import random_prompts
from support.models import move
from support.processes import start
from support.runs import CPU, assert_same_run, before, rows_of


def pid_of(engine: ProcessEngine) -> int:
    assert engine._process is not None
    return engine._process.pid


@pytest.fixture(scope="module")
def engine(tiny_model_folder, tmp_path_factory):
    """Started in a folder with a module of the user's that is called as one of the standard library's."""
    process = ProcessEngine(str(tiny_model_folder), CPU, 64, 1)
    assert process._process is None  # not before it is needed
    folder = tmp_path_factory.mktemp("users")
    (folder / "queue.py").write_text("raise SystemExit('shadowed')")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        process.sync(load_policy(str(tiny_model_folder), CPU))
    yield process
    process.close()


def test_the_process_says_what_is_wrong_and_a_hanging_one_is_ended(engine, tiny_model_folder, monkeypatch):
    policy = load_policy(str(tiny_model_folder), CPU)
    prompts = random_prompts(3)
    engine.sync(policy)
    here = LocalEngine(policy.model, policy.tokenizer, 64)
    for sampling in (Sampling(4, 6), Sampling(2, 9, 0.7)):
        found = engine.generate(prompts, sampling, seed=3, step=7)
        assert found == here.generate(prompts, sampling, seed=3, step=7)
    with pytest.raises(UserError, match=r"^sampling\.stop: the embedded engine ends"):
        engine.generate(prompts, Sampling(2, 4, stop=("x",)), seed=3, step=0)
    move(policy.model)
    engine.sync(policy)
    again = here.generate(prompts, Sampling(4, 6), seed=3, step=7)
    assert engine.generate(prompts, Sampling(4, 6), seed=3, step=7) == again
    with pytest.raises(UserError, match=r"ahead \(engine\.ahead\) failed: IndexError: .*; the same command goes"):
        engine.generate([replace(prompts[0], token_ids=(10**6,))], Sampling(2, 4), seed=3, step=0)
    monkeypatch.setattr(engine_process, "PATIENCE", 1)
    os.kill(pid_of(engine), signal.SIGSTOP)
    more = [replace(prompts[0], token_ids=(9,) * 200_000)]  # than the socket takes at a time
    with pytest.raises(UserError, match=r"samples ahead \(engine\.ahead\) hangs: it computed nothing for 1 s and was"):
        engine.generate(more, Sampling(2, 4), seed=3, step=0)
    assert engine._process is not None
    assert engine._process.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("exit 3", "ended with exit code 3: what it wrote before says why"),
        ("kill -KILL $$", "was ended by SIGKILL; perhaps memory ran out: the same command goes on from the last"),
        ("kill -40 $$", "was ended by signal 40: the same command goes on"),  # a real-time one has no name
        ("exec sleep 60", "answers no more and was ended; the same command goes on"),
    ],
)
def test_every_end_is_told_in_one_line(command, said, monkeypatch):
    monkeypatch.setattr(engine_process, "PATIENCE", 0.3)
    with subprocess.Popen(["sh", "-c", command]) as process:
        assert said in ending(process)


@pytest.mark.slow
def test_a_process_that_is_killed_and_started_again_changes_nothing(tiny_model_folder, tmp_path, monkeypatch):
    """The real one: it dies while it samples the fifth rollout, which ends the run with one line; the same command then
    gives what an engine in this process gives."""
    config = ahead_of(checkpoint={"every": 1, "keep": 2}, steps=7)
    made: list[ProcessEngine] = []

    def start(*arguments: Any) -> ProcessEngine:
        made.append(ProcessEngine(*arguments))
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr("grpo.engines.choose.ProcessEngine", start)
        original = ProcessEngine.generate
        kill = lambda self: os.kill(pid_of(self), signal.SIGKILL)  # noqa: E731
        before(patch, ProcessEngine, "generate", lambda self, *_, step, **__: step == 4 and kill(self))
        with pytest.raises(UserError, match=r"samples ahead .* was ended by SIGKILL; perhaps memory ran out: the same"):
            run_ahead(tiny_model_folder, tmp_path / "process", config)
        assert len(rows_of(tmp_path / "process")) == 4
        patch.setattr(ProcessEngine, "generate", original)
        run_ahead(tiny_model_folder, tmp_path / "process", config)
    assert [engine._process and engine._process.poll() for engine in made] == [-signal.SIGKILL] * 2  # nothing stays
    put_inside(monkeypatch)
    run_ahead(tiny_model_folder, tmp_path / "here", config)
    assert_same_run(tmp_path / "process", tmp_path / "here")


ORPHAN = """
import os, sys, time
from grpo.config.engine import RuntimeConfig
from grpo.engines.local.process import ProcessEngine
engine = ProcessEngine(sys.argv[1], RuntimeConfig(device="cpu"), 8, 1)
process = engine._start()
child = os.fork()  # a worker of a data loader, say: it has the pipe open as well
if child:
    print(process.pid, child, flush=True)
time.sleep(100)
"""


@pytest.mark.slow
def test_the_process_ends_with_the_trainer_whoever_holds_its_pipe(tiny_model_folder):
    trainer = start("-c", ORPHAN, tiny_model_folder, stderr=None)
    process, child = (psutil.Process(int(word)) for word in trainer.stdout.readline().split())
    try:
        trainer.kill()
        trainer.wait()
        process.wait(30)
        assert child.is_running()
    finally:
        child.kill()
        trainer.stdout.close()


@pytest.mark.slow
def test_a_closed_connection_ends_the_process_in_order(tiny_model_folder):
    engine = ProcessEngine(str(tiny_model_folder), CPU, 8, 1)
    engine.sync(load_policy(str(tiny_model_folder), CPU))
    engine._connection.close()
    assert engine._process is not None
    assert engine._process.wait(30) == 0
    engine.close()
