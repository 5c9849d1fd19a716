"""SIGINT and SIGTERM in every phase: the run stops, has saved, and goes on as if nothing had been."""

import signal
import time
import types
from typing import Any

import pytest
import torch

import grpo.run
from grpo import trainer
from grpo.checkpoint import sealed
from grpo.config.engine import RuntimeConfig
from grpo.engines.local.engine import LocalEngine
from grpo.errors import UserError
from grpo.model.policy import Policy, load_policy, trainable
from grpo.model.reference import Reference
from grpo.system import stopping
from grpo.system.world import World
from stages.commands.common import guarded
from support.models import move
from support.processes import finish, send, start, two_processes
from support.runs import assert_same_run, at_call, broken, checkpointed, config_of, digits, rows_of, run, task_of

SETTINGS: dict[str, Any] = {"rollout_prompts": 4, "steps": 8, "loss": {"beta": 0.05}, "reference_every": 4}


# phase -> (where, the call at which the signal comes, the step that is saved then)
CACHED = types.SimpleNamespace(digits=digits)  # by this name a reward's state does not hold what is patched
PHASES: dict[str, tuple[Any, str, int, int]] = {
    "sampling": (LocalEngine, "generate", 3, 4),
    "rewards": (CACHED, "digits", 3, 4),
    "scoring": (trainer, "with_logprobs", 3, 4),
    "completions": (grpo.run, "save_completions", 3, 4),
    "first update": (trainer, "update", 3, 4),
    "second update": (trainer, "update", 4, 4),
    "sync": (LocalEngine, "sync", 3, 4),
    "save": (sealed, "write_text", 1, 2),
    "model": (Policy, "save", 1, 8),
}


def judged(completions: list[str], **_: Any) -> list[float]:
    return CACHED.digits(completions)


@pytest.fixture(scope="module")
def whole(tiny_model_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    run(tiny_model_folder, out, config_of(**SETTINGS, checkpoint={}), {"default": task_of(judged)})
    return out


def signalled(number: int, call: tuple[Any, str, int], *arguments: Any) -> Any:
    """A run that gets this signal at this call."""
    end = KeyboardInterrupt if number == signal.SIGINT else SystemExit
    return broken(lambda patch: at_call(patch, *call, lambda: send(number)), *arguments, end=end)


OFTEN = ("sampling", "first update", "save", "model")  # the others in the slow suite


@pytest.mark.parametrize("phase", [p if p in OFTEN else pytest.param(p, marks=pytest.mark.slow) for p in PHASES])
def test_it_stops_saves_and_goes_on(phase, whole, tiny_model_folder, tmp_path):
    owner, name, count, saved = PHASES[phase]
    number = (signal.SIGINT, signal.SIGTERM)[len(phase) % 2]
    config = config_of(**SETTINGS, checkpoint={"every": 2} if phase == "save" else {})
    tasks = {"default": task_of(judged)}
    raised = signalled(number, (owner, name, count), tiny_model_folder, tmp_path, config, tasks)
    if number == signal.SIGTERM:
        assert raised.code == 143
    assert checkpointed(tmp_path) == [f"step-{saved:06d}"]
    assert len(rows_of(tmp_path)) == saved
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    run(tiny_model_folder, tmp_path, config, tasks)
    assert_same_run(tmp_path, whole)
    assert (phase == "save") == (tmp_path / "checkpoints").exists()  # what only a signal saved is gone at the end


def test_a_signal_does_not_move_the_checkpoints_that_are_due(tiny_model_folder, tmp_path):
    config = config_of(steps=7, checkpoint={"every": 3, "keep": 9})
    signalled(signal.SIGINT, (LocalEngine, "generate", 5), tiny_model_folder, tmp_path, config)
    run(tiny_model_folder, tmp_path, config)
    assert checkpointed(tmp_path) == ["step-000003", "step-000004", "step-000006"]


def test_before_the_first_update_there_is_nothing_to_save(tiny_model_folder, tmp_path):
    signalled(signal.SIGINT, (LocalEngine, "generate", 1), tiny_model_folder, tmp_path, config_of(checkpoint={}))
    assert not (tmp_path / "checkpoints").exists()


def test_an_engine_that_fell_to_the_same_signal_is_no_failure(tiny_model_folder, tmp_path, monkeypatch):
    """Ctrl-C at a terminal reaches every child of the run too; what then fails first is a matter of chance."""

    def falls() -> None:
        try:
            send(signal.SIGTERM)
        except KeyboardInterrupt:
            raise RuntimeError("engine dead") from None

    at_call(monkeypatch, LocalEngine, "generate", 3, falls)
    with pytest.raises(SystemExit):
        run(tiny_model_folder, tmp_path, config_of(checkpoint={}))
    assert checkpointed(tmp_path) == ["step-000002"]


def test_a_failure_without_a_signal_stays_one_and_saves_nothing(tiny_model_folder, tmp_path, monkeypatch):
    def failing() -> None:
        raise UserError("the server is gone")

    at_call(monkeypatch, LocalEngine, "generate", 3, failing)
    with pytest.raises(UserError, match="server is gone"):
        run(tiny_model_folder, tmp_path, config_of(checkpoint={}))
    assert not (tmp_path / "checkpoints").exists()


def test_in_a_notebook_a_second_interrupt_does_not_wait(tiny_model_folder, tmp_path, monkeypatch):
    def twice() -> None:
        send(signal.SIGINT)
        send(signal.SIGINT)

    at_call(monkeypatch, trainer, "update", 1, twice)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_model_folder, tmp_path, config_of(checkpoint={}))
    assert rows_of(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_says_so_in_one_line(number, capsys):
    def stopped(_: list[str]) -> int:
        send(number)
        return 0

    assert guarded(stopped, []) == 128 + number
    assert capsys.readouterr().err == f"stopped by {signal.Signals(number).name}: the same command goes on from here\n"


def test_a_handler_of_the_users_own_stays(tiny_model_folder):
    before = signal.signal(signal.SIGTERM, own := lambda *_: None)
    try:
        with stopping.handled():
            assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


class Two:
    """Processes, of which the other one was told to stop."""

    def gather(self, mine: int | None) -> list[int | None]:
        return [mine, int(signal.SIGTERM)]


def test_processes_stop_together():
    with pytest.raises(stopping.Stopped) as stopped:
        stopping.check(Two())  # type: ignore[arg-type]
    assert stopped.value.signal == signal.SIGTERM


def test_a_command_that_is_done_here_and_stopped_in_another_process(monkeypatch):
    """Before: one process ended with 0, the other with 143."""
    monkeypatch.setattr(World, "current", Two)
    assert guarded(lambda _: 0, []) == 143


def test_a_signal_that_still_waits_at_the_end_is_not_lost():
    def held() -> None:
        stopping.hold(True)
        send(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), stopping.handled():
        held()


def test_what_is_done_here_and_stopped_in_another_process_is_stopped(monkeypatch):
    """As `grpo.train` from Python. Before: it returned in one process, and raised SystemExit(143) in the other."""
    monkeypatch.setattr(World, "current", Two)
    with pytest.raises(SystemExit) as ended, stopping.handled():
        pass
    assert ended.value.code == 143


def test_a_signal_after_the_last_word_of_all_processes_comes_after_the_block(monkeypatch):
    """It is neither lost, nor ends in one process what ended well in all."""

    class Asking:
        def gather(self, mine: int | None) -> list[int | None]:
            send(signal.SIGINT)
            return [mine, None]

    monkeypatch.setattr(World, "current", Asking)
    with pytest.raises(KeyboardInterrupt) as raised, stopping.handled():
        pass
    assert not isinstance(raised.value, stopping.Stopped)
    assert not stopping.asked()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


LATE = """
import sys
from pathlib import Path
from grpo.checkpoint.saver import Saver
from grpo.system.world import World
from support.processes import send
from support.runs import config_of, run

finished = Saver.finished
def then_signalled(saver):
    finished(saver)
    if World.current().rank == 1:
        send(15)
Saver.finished = then_signalled
run(Path(sys.argv[1]), Path(sys.argv[2]), config_of(steps=1, checkpoint={}))
"""


@pytest.mark.slow
def test_a_signal_to_one_process_after_the_last_step_ends_the_training_in_both(tiny_model_folder, tmp_path):
    both = two_processes(["-c", LATE, str(tiny_model_folder), str(tmp_path / "run")])
    assert [done.returncode for done in both] == [143, 143]
    assert (tmp_path / "run" / "model").is_dir()


STUBBORN = """
import sys, time
from grpo.system import stopping
from stages.commands.common import guarded
def stubborn(_):
    stopping.set_grace(float(sys.argv[1]))
    with stopping.later():
        print("here", flush=True)
        time.sleep(60)
    return 0
sys.exit(guarded(stubborn, []))
"""


@pytest.mark.parametrize(("grace", "again", "code"), [(0.2, False, 143), (60, True, 130)])
def test_a_command_ends_at_the_second_signal_and_after_the_grace_time(grace, again, code):
    child = start("-c", STUBBORN, grace)
    assert child.stdout.readline() == "here\n"
    child.send_signal(signal.SIGTERM)
    if again:
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
    done = finish(child, 30)
    assert done.returncode == code
    assert done.stderr.startswith("SIGTERM: finishing the step and saving")


def test_a_signal_does_not_leave_the_policy_half_exchanged(tiny_model_folder, monkeypatch):
    policy = load_policy(str(tiny_model_folder), RuntimeConfig(device="cpu"))
    kept = Reference.of(policy)
    move(policy.model, 1.0)
    before = {name: parameter.clone() for name, parameter in policy.model.named_parameters()}
    inside = []

    class Signalling(dict[str, Any]):
        """Of parameters: the signal comes at the second."""

        def items(self) -> Any:
            for place, item in enumerate(super().items()):
                if place == 1 and not stopping.asked():
                    send(signal.SIGINT)
                yield item

    monkeypatch.setattr("grpo.model.reference.trainable", lambda model: Signalling(trainable(model)))
    with pytest.raises(KeyboardInterrupt), stopping.handled(), kept.active(policy.model):
        inside.append("heeded too late")
    assert inside == []
    assert all(torch.equal(parameter, before[name]) for name, parameter in policy.model.named_parameters())


def test_between_two_exchanges_signals_are_heeded():
    did: list[str] = []

    def between() -> Any:
        return stopping.between(lambda: did.append("before"), lambda: did.append("after"))

    with pytest.raises(KeyboardInterrupt), stopping.handled(), between():
        send(signal.SIGINT)
    assert did == ["before", "after"]

    def work() -> None:
        with between():
            send(signal.SIGINT)
            did.append("held")
        did.append("still held")

    with pytest.raises(KeyboardInterrupt), stopping.handled(), stopping.later():
        work()
    assert did[2:] == ["before", "held", "after", "still held"]
