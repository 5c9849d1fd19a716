"""One step ahead: which weights draw what, how it is weighed, and that a run stays the same through every stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import random_prompts
from safetensors.torch import load_file
from test_trainer import CPU, Killed, completions, config_of, interrupt_at, length, rows_of, task_of, weights
from vllm_fake import GENERATE, fake_vllm

from grpo import engine_process, trainer
from grpo.batching import Row
from grpo.checkpoint import last_good, read_state
from grpo.config import EngineConfig, RLConfig
from grpo.engine_local import LocalEngine
from grpo.engine_process import ProcessEngine
from grpo.errors import UserError
from grpo.policy import load_model, load_policy, load_tokenizer
from grpo.trainer import TrainResult, train
from grpo.types import Sampling

AHEAD = EngineConfig(ahead=True)


def run(folder: Path, out: Path, config: RLConfig, tasks: Any = None, engine: EngineConfig = AHEAD) -> TrainResult:
    return train(str(folder), tasks or {"default": task_of()}, config, out, seed=1, runtime=CPU, engine_config=engine)


def ahead_of(**settings: Any) -> RLConfig:
    return config_of(**{"correction": {"high": 1.5}} | settings)


def at_once(work: Callable[[], Any]) -> Future[Any]:
    outcome: Future[Any] = Future()
    try:
        outcome.set_result(work())
    except BaseException as error:  # noqa: BLE001
        outcome.set_exception(error)
    return outcome


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine of the second process in this one, sampling before anything is trained: it starts in no time.

    `test_a_process_that_is_killed_and_started_again_changes_nothing` shows that the real one gives the same.
    """

    def engine(name: str, *_: Any) -> LocalEngine:
        return LocalEngine(load_model(name, torch.device("cpu")), load_tokenizer(name), 64, shared=False)

    monkeypatch.setattr("grpo.engine.ProcessEngine", engine)
    monkeypatch.setattr("grpo.ahead.in_background", at_once)


class Updates:
    """What every update was given and gave."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.rows: list[list[Row]] = []
        self.stats: list[dict[str, Any]] = []
        self.gradients: list[dict[int, torch.Tensor]] = []
        original, step = trainer.update, torch.optim.AdamW.step

        def update(learner: Any, rows: Any, *arguments: Any, **options: Any) -> Any:
            self.rows.append(list(rows))
            self.stats.append(original(learner, rows, *arguments, **options))
            return dict(self.stats[-1])

        def stepping(optimizer: Any, *arguments: Any, **options: Any) -> Any:
            (group,) = optimizer.param_groups
            self.gradients.append({i: p.grad.clone() for i, p in enumerate(group["params"])})
            return step(optimizer, *arguments, **options)

        patch.setattr(trainer, "update", update)
        patch.setattr(torch.optim.AdamW, "step", stepping)

    def versions(self) -> list[set[int]]:
        return [{row.rollout.completion.version for row in rows} for rows in self.rows]


# ---- which weights draw what


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0, 0, 1, 2, 3, 4]),
        ({"rollout_prompts": 4}, [0, 0, 0, 0, 2, 2]),
        ({"rollout_prompts": 4, "inner_epochs": 2, "steps": 10}, [0] * 8 + [4] * 2),
    ],
)
def test_every_rollout_is_one_rollout_old(settings, expected, inside, tiny_model_folder, tmp_path, monkeypatch):
    seen = Updates(monkeypatch)
    run(tiny_model_folder, tmp_path, ahead_of(**settings))
    assert seen.versions() == [{version} for version in expected]
    trained = [(row["step"], row["staleness"], row["staleness_max"]) for row in rows_of(tmp_path) if row["applied"]]
    assert trained
    assert all(mean == most == step - 1 - expected[step - 1] for step, mean, most in trained)


def test_no_more_is_sampled_than_is_trained(inside, tiny_model_folder, tmp_path, monkeypatch):
    asked = asked_steps(monkeypatch)
    run(tiny_model_folder, tmp_path, ahead_of())
    assert asked == [0, 1, 2, 3, 4, 5]


def asked_steps(patch: pytest.MonkeyPatch) -> list[int]:
    """The rollouts that the engine is asked for, by the step they begin at."""
    asked: list[int] = []
    original = LocalEngine.generate

    def generate(self: LocalEngine, *arguments: Any, step: int, **options: Any) -> Any:
        asked.append(step)
        return original(self, *arguments, step=step, **options)

    patch.setattr(LocalEngine, "generate", generate)
    return asked


def test_what_is_drawn_again_is_drawn_by_the_weights_of_the_moment(inside, tiny_model_folder, tmp_path, monkeypatch):
    seen = Updates(monkeypatch)

    def now_and_then(completions: list[str], prompts: list[str], **_: Any) -> list[float]:
        return [float(len(c) % 2) if p[-2] in "02468" else 0.0 for p, c in zip(prompts, completions, strict=True)]

    config = ahead_of(dynamic_sampling={"reward": "now_and_then", "max_draws": 3}, prompts_per_step=3)
    run(tiny_model_folder, tmp_path, config, {"default": task_of(now_and_then, 10)})
    ages = {step - version for step, found in enumerate(seen.versions()) for version in found}
    assert {0, 1} <= ages  # drawn again, and drawn ahead
    for row in rows_of(tmp_path):
        assert row["logprob_mismatch"] < 1e-4


# ---- how it is weighed


@pytest.mark.parametrize("updates", [1, 2])
def test_the_gradient_is_that_of_the_formula(updates, inside, tiny_model_folder, tmp_path, monkeypatch):
    """Plain double precision, from the checkpoints alone: pi_gen is what the versions say, pi_old the policy at the
    beginning of the rollout, and the clipped objective is weighed by min(pi_old / pi_gen, high)."""
    seen = Updates(monkeypatch)
    config = ahead_of(
        rollout_prompts=2 * updates,
        steps=6,
        checkpoint={"every": updates, "keep": 100},
        loss={"clip_low": 0.2, "clip_high": 0.2},
        optimizer={"lr": 2e-2, "max_grad_norm": 1e9},
    )
    run(tiny_model_folder, tmp_path, config)
    cut = 0.0
    for step in range(0, 6, updates):  # the first update of each rollout: its weights are on the disk
        stats = seen.stats[step]
        policy, drew = weights_at(tiny_model_folder, tmp_path, step), max(0, step - updates)
        behaviour = weights_at(tiny_model_folder, tmp_path, drew)
        rows = [row for row in seen.rows[step] if row.rollout.advantage]
        total, corrections = torch.zeros((), dtype=torch.float64), []
        for row in rows:
            done = row.rollout.completion
            with torch.no_grad():
                drawn = logprobs(behaviour, row)
            torch.testing.assert_close(torch.tensor(done.logprobs).double(), drawn, atol=2e-5, rtol=0)
            current = logprobs(policy, row)
            weight = (current.detach() - drawn).exp().clamp(max=1.5)
            corrections.append(weight)
            total = total - (row.rollout.advantage * weight * current).mean() / len(seen.rows[step])
        together = torch.cat(corrections)
        assert stats["correction"] == pytest.approx(float(together.mean()), abs=1e-4)
        assert stats["correction_max"] == pytest.approx(float(together.max()), abs=1e-4)
        cut += stats["correction_cut"]
        total.backward()
        expected = {name: p.grad for name, p in policy.named_parameters() if p.requires_grad}
        for ours, (name, theirs) in zip(seen.gradients[step].values(), expected.items(), strict=True):
            assert (ours.double() - theirs).norm() <= 1e-3 * theirs.norm() + 1e-7, name
    assert cut > 0  # the bound was felt


def weights_at(folder: Path, out: Path, step: int) -> Any:
    """The policy after so many updates, as a plain double-precision model."""
    model = load_model(str(folder), torch.device("cpu")).double()
    if step:
        model.load_state_dict(load_file(out / "checkpoints" / f"step-{step:06d}" / "model.safetensors"), strict=False)
    return model


def logprobs(model: Any, row: Row) -> torch.Tensor:
    done = row.rollout.completion
    table = model(input_ids=torch.tensor([[*row.prompt_ids, *done.token_ids]])).logits[0].log_softmax(-1)
    return torch.stack([table[len(row.prompt_ids) + t - 1, token] for t, token in enumerate(done.token_ids)])


# ---- the gate


def test_lawful_staleness_passes_and_a_missed_sync_does_not(inside, tiny_model_folder, tmp_path, monkeypatch):
    config = ahead_of(optimizer={"lr": 5e-2})
    run(tiny_model_folder, tmp_path / "good", config)
    rows = rows_of(tmp_path / "good")
    assert all(row["logprob_mismatch"] < 1e-5 and row["logprob_mismatch_max"] < 1e-4 for row in rows)
    assert max(abs(row["correction"] - 1) for row in rows) > 0.02  # though the policy has moved far

    original, calls = LocalEngine.sync, []

    def sometimes(self: LocalEngine, policy: Any) -> None:
        calls.append(1)
        if len(calls) != 3:
            original(self, policy)

    monkeypatch.setattr(LocalEngine, "sync", sometimes)
    with pytest.raises(UserError, match="same tokens differ by"):
        run(tiny_model_folder, tmp_path / "bad", config)
    # the third sync, after two updates, was for the rollout of the fourth: seen before that begins
    assert [row["step"] for row in rows_of(tmp_path / "bad")] == [1, 2, 3]


# ---- going on

RUNS: dict[str, dict[str, Any]] = {
    "several-updates-epochs-kl-refresh-difficulty": {
        "difficulty": {"reward": "digits", "low": 0.05, "high": 0.4, "target": 0.2},
        "rollout_prompts": 4,
        "inner_epochs": 2,
        "loss": {"beta": 0.05},
        "reference_every": 3,
        "steps": 11,
        "optimizer": {"lr": 5e-3, "schedule": "cosine", "warmup_steps": 2, "min_lr": 1e-4, "weight_decay": 0.1},
    },
    "dynamic-sampling-and-difficulty": {
        "dynamic_sampling": {"reward": "digits", "max_draws": 3},
        "difficulty": {"reward": "digits", "low": 0.05, "high": 0.4, "target": 0.2},
        "rollout_prompts": 4,
        "steps": 10,
    },
    "lora-and-dropout": {"lora": {"r": 4, "alpha": 8, "dropout": 0.2}, "optimizer": {"lr": 2e-2}},
}


def in_update(at: int, act: Callable[[], None]) -> Callable[[pytest.MonkeyPatch], None]:
    """Patches the update after `at` steps to begin with `act`."""
    original = trainer.update

    def update(*arguments: Any, step: int, **options: Any) -> Any:
        if step == at:
            act()
        return original(*arguments, step=step, **options)

    return lambda patch: patch.setattr(trainer, "update", update)


def die() -> None:
    raise Killed


def broken(
    change: Callable[[pytest.MonkeyPatch], None],
    folder: Path,
    out: Path,
    config: RLConfig,
    end: type[BaseException] = Killed,
    **options: Any,
) -> None:
    """A run that comes to this end when `change` is made to the program."""
    with pytest.MonkeyPatch.context() as patch:
        change(patch)
        with pytest.raises(end):
            run(folder, out, config, **options)


@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_is_the_uninterrupted_one(name, inside, tiny_model_folder, tmp_path):
    """Bitwise; killed while a rollout is sampled ahead, and in the middle of updates."""
    config = ahead_of(**RUNS[name])
    tasks = {"default": task_of(), "late": task_of(length, 3, "late", last_steps=4, share=0.5)}
    whole = run(tiny_model_folder, tmp_path / "whole", config, tasks)
    cut = tmp_path / "cut"
    for kill in (lambda patch: interrupt_at(patch, 4), in_update(5, die)):
        broken(kill, tiny_model_folder, cut, config, tasks=tasks)
    resumed = run(tiny_model_folder, cut, config, tasks)
    assert_same(cut, tmp_path / "whole")
    assert (resumed.steps, resumed.tokens) == (whole.steps, whole.tokens)


def assert_same(one: Path, other: Path) -> None:
    assert rows_of(one) == rows_of(other)
    assert completions(one) == completions(other)
    mine, theirs = weights(one), weights(other)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_what_is_finished_is_kept_with_its_log_probs_and_not_sampled_again(
    inside, tiny_model_folder, tmp_path, monkeypatch
):
    config = ahead_of()
    broken(in_update(5, die), tiny_model_folder, tmp_path, config)
    checkpoint = last_good(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.name == "step-000004"
    waiting = read_state(checkpoint).source["waiting"]
    assert waiting["step"] == 4
    rollouts = [rollout for group in waiting["groups"] for rollout in group["rollouts"]]
    assert len(rollouts) == 8
    assert {rollout["version"] for rollout in rollouts} == {3}
    assert all(len(rollout["logprobs"]) == len(rollout["token_ids"]) > 0 for rollout in rollouts)
    asked = asked_steps(monkeypatch)
    run(tiny_model_folder, tmp_path, config)
    assert asked == [5]


def test_a_signal_in_an_update_waits_for_what_is_sampled_and_keeps_it(inside, tiny_model_folder, tmp_path, monkeypatch):
    config = ahead_of(checkpoint={}, rollout_prompts=4)
    run(tiny_model_folder, tmp_path / "whole", config)
    told = in_update(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    broken(told, tiny_model_folder, tmp_path / "cut", config, SystemExit)
    checkpoint = last_good(tmp_path / "cut" / "checkpoints")
    assert checkpoint is not None
    assert read_state(checkpoint).source["waiting"]["step"] == 4
    asked = asked_steps(monkeypatch)
    run(tiny_model_folder, tmp_path / "cut", config)
    assert asked == []  # the last rollout was there already
    assert_same(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.slow
def test_turned_on_or_off_in_the_middle(inside, tiny_model_folder, tmp_path):
    """With --accept-changes: what waits is trained, and then all is as the settings say."""
    config = ahead_of()
    for first, then in ((AHEAD, EngineConfig()), (EngineConfig(), AHEAD)):
        out = tmp_path / str(then.ahead)
        broken(in_update(3, die), tiny_model_folder, out, config, engine=first)
        with pytest.raises(UserError, match=rf"engine\.ahead: {first.ahead} -> {then.ahead}"):
            run(tiny_model_folder, out, config, engine=then)
        tasks = {"default": task_of()}
        train(str(tiny_model_folder), tasks, config, out, seed=1, runtime=CPU, engine_config=then, accept_changes=True)
        stale = [row["staleness"] for row in rows_of(out) if row["applied"]]
        assert stale == ([0, 1, 1, 0, 0, 0] if first.ahead else [0, 0, 0, 1, 1, 1])


# ---- the process


def test_a_process_that_is_killed_and_started_again_changes_nothing(tiny_model_folder, tmp_path, monkeypatch):
    """The real one: it dies while it samples the fifth rollout, which ends the run with one line; the same command then
    gives what an engine in this process gives."""
    config = ahead_of(checkpoint={"every": 1, "keep": 2}, steps=7)
    made: list[ProcessEngine] = []

    def start(*arguments: Any) -> ProcessEngine:
        made.append(ProcessEngine(*arguments))
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr("grpo.engine.ProcessEngine", start)
        original = ProcessEngine.generate

        def dying(self: ProcessEngine, *arguments: Any, step: int, **options: Any) -> Any:
            if step == 4:
                os.kill(self._process.pid, signal.SIGKILL)
            return original(self, *arguments, step=step, **options)

        patch.setattr(ProcessEngine, "generate", dying)
        with pytest.raises(UserError, match=r"samples ahead .* was ended by SIGKILL; perhaps memory ran out: the same"):
            run(tiny_model_folder, tmp_path / "process", config)
        assert len(rows_of(tmp_path / "process")) == 4
        patch.setattr(ProcessEngine, "generate", original)
        run(tiny_model_folder, tmp_path / "process", config)
    assert [engine._process.poll() for engine in made] == [-signal.SIGKILL] * 2  # nothing stays
    monkeypatch.setattr("grpo.ahead.in_background", at_once)
    monkeypatch.setattr("grpo.engine.ProcessEngine", in_this_process)
    run(tiny_model_folder, tmp_path / "here", config)
    assert_same(tmp_path / "process", tmp_path / "here")


def in_this_process(name: str, *_: Any) -> LocalEngine:
    return LocalEngine(load_model(name, torch.device("cpu")), load_tokenizer(name), 64, shared=False)


@pytest.fixture(scope="module")
def engine(tiny_model_folder: Path) -> Iterator[ProcessEngine]:
    process = ProcessEngine(str(tiny_model_folder), CPU, 64, 1)
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
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter *= 1.1
    engine.sync(policy)
    assert engine.generate(prompts, Sampling(4, 6), seed=3, step=7) == here.generate(
        prompts, Sampling(4, 6), seed=3, step=7
    )
    with pytest.raises(
        UserError, match=r"samples ahead \(engine\.ahead\) failed: IndexError: .*; the same command goes"
    ):
        engine.generate([replace(prompts[0], token_ids=(10**6,))], Sampling(2, 4), seed=3, step=0)
    monkeypatch.setattr(engine_process, "PATIENCE", 1)
    os.kill(engine._process.pid, signal.SIGSTOP)
    with pytest.raises(UserError, match=r"samples ahead \(engine\.ahead\) hangs: it computed nothing for 1 s and was"):
        engine.generate(prompts, Sampling(2, 4), seed=3, step=0)
    assert engine._process.wait(10) == -signal.SIGKILL


ORPHAN = """
import sys, time
from grpo.config import RuntimeConfig
from grpo.engine_process import ProcessEngine
engine = ProcessEngine(sys.argv[1], RuntimeConfig(device="cpu"), 8, 1)
print(engine._process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_the_process_ends_with_the_trainer(tiny_model_folder):
    command = [sys.executable, "-c", ORPHAN, str(tiny_model_folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)
    assert child.stdout is not None
    process = psutil.Process(int(child.stdout.readline()))
    child.kill()
    child.wait()
    process.wait(30)


# ---- vLLM servers


def test_servers_are_asked_while_the_trainer_updates_and_synced_when_they_are_done(
    tiny_model_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("grpo.run_setup.mismatch_limit", lambda *_: 1e9)  # the fake server draws from a hash
    with ExitStack() as stack:
        server = stack.enter_context(fake_vllm(tmp_path))
        versions: list[str] = []
        server.fault = lambda path, body: versions.append(server.version) if path == GENERATE else None
        updated = len_at_update(monkeypatch, server)
        tree = {"kind": "vllm-server", "ahead": True, "server": {"urls": [server.url], "folder": str(tmp_path)}}
        run(tiny_model_folder, tmp_path / "run", ahead_of(steps=4), engine=EngineConfig.model_validate(tree))
        asked = versions[1:]  # after the probe
    assert [version.rpartition("-")[2] for version in asked] == ["1"] * 4 + ["2"] * 2 + ["3"] * 2  # 2 prompts a rollout
    assert updated[0] >= 1 + 2
    assert [row["staleness"] for row in rows_of(tmp_path / "run")] in ([0, 1, 1, 1], [None] * 4)
    # /pause aborts what is being sampled: it comes after all of it. The first request is a probe.
    calls = [path for path in server.calls if path in (GENERATE, "/pause")]
    one = [GENERATE] * 2
    assert calls == [GENERATE, "/pause", *one, *one, "/pause", *one, "/pause", *one, "/pause", "/pause"]


def len_at_update(patch: pytest.MonkeyPatch, server: Any) -> list[int]:
    """How many requests the server had had at each update."""
    counts: list[int] = []
    original = trainer.update

    def update(*arguments: Any, **options: Any) -> Any:
        counts.append(len(server.bodies))
        return original(*arguments, **options)

    patch.setattr(trainer, "update", update)
    return counts


# ---- where it cannot be


def test_what_cannot_be_honoured_is_refused(tiny_model_folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"engine\.ahead .*: set 'correction'"):
        run(tiny_model_folder, tmp_path, config_of())
    with pytest.raises(ValueError, match="'ahead' needs an engine beside the trainer"):
        EngineConfig.model_validate({"kind": "vllm", "ahead": True})
    with monkeypatch.context() as patch:
        patch.setattr("grpo.run_setup.engine_kind", lambda *_: "vllm")
        with pytest.raises(UserError, match="'ahead' needs an engine beside the trainer"):
            run(tiny_model_folder, tmp_path, ahead_of(), engine=EngineConfig(kind="auto", ahead=True))
    monkeypatch.setattr("grpo.ahead_check.launched", lambda: True)
    with pytest.raises(UserError, match="the trainer must be one process"):
        run(tiny_model_folder, tmp_path, ahead_of())
    assert not (tmp_path / "metrics.jsonl").exists()
