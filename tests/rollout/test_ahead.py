"""One step ahead: which weights draw what, how it is weighed, and that a run stays the same through every stop."""

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from grpo import trainer
from grpo.checkpoint.store import last_good, read_state
from grpo.config.engine import EngineConfig
from grpo.engines.local.engine import LocalEngine
from grpo.errors import UserError
from grpo.learner.batching import TrainRow
from grpo.learner.stats import StepStats
from grpo.model.loading.weights import load_model
from grpo.types import Rollout
from support.ahead import AHEAD, ahead_of, at_once, put_inside, run_ahead
from support.runs import (
    CHANGING,
    COSINE,
    DIFFICULTY,
    POOLED,
    assert_same_run,
    before,
    broken,
    completions,
    config_of,
    die,
    interrupt_at,
    length,
    rows_of,
    task_of,
)
from support.vllm_fake import GENERATE, fake_vllm


@pytest.fixture
def inside(monkeypatch):
    """The engine of the second process in this one, sampling before anything is trained: it starts in no time.

    `tests/engines/test_engine_process.py` shows that the real one gives the same.
    """

    put_inside(monkeypatch)


class Updates:
    """What every update was given and gave."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.rows: list[list[TrainRow]] = []
        self.stats: list[dict[str, Any]] = []
        self.gradients: list[dict[int, torch.Tensor]] = []
        original = trainer.update

        def update(learner: Any, rows: Any, *arguments: Any, **options: Any) -> Any:
            self.rows.append(list(rows))
            self.stats.append(original(learner, rows, *arguments, **options))
            return dict(self.stats[-1])

        def stepping(optimizer: Any, *_: Any, **__: Any) -> None:
            (group,) = optimizer.param_groups
            self.gradients.append({i: p.grad.clone() for i, p in enumerate(group["params"])})

        patch.setattr(trainer, "update", update)
        before(patch, torch.optim.AdamW, "step", stepping)

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
    run_ahead(tiny_model_folder, tmp_path, ahead_of(**settings))
    assert seen.versions() == [{version} for version in expected]
    trained = [(row["step"], row["staleness"], row["staleness_max"]) for row in rows_of(tmp_path) if row["applied"]]
    assert trained
    assert all(mean == most == step - 1 - expected[step - 1] for step, mean, most in trained)


def test_no_more_is_sampled_than_is_trained(inside, tiny_model_folder, tmp_path, monkeypatch):
    asked = asked_steps(monkeypatch)
    run_ahead(tiny_model_folder, tmp_path, ahead_of())
    assert asked == [0, 1, 2, 3, 4, 5]


def asked_steps(patch: pytest.MonkeyPatch) -> list[int]:
    """The rollouts that the engine is asked for, by the step they begin at."""
    asked: list[int] = []
    before(patch, LocalEngine, "generate", lambda *_, step, **__: asked.append(step))
    return asked


def test_what_is_drawn_again_is_drawn_by_the_weights_of_the_moment(inside, tiny_model_folder, tmp_path, monkeypatch):
    seen = Updates(monkeypatch)

    def now_and_then(completions: list[str], prompts: list[str], **_: Any) -> list[float]:
        return [float(len(c) % 2) if p[-2] in "02468" else 0.0 for p, c in zip(prompts, completions, strict=True)]

    config = ahead_of(dynamic_sampling={"reward": "now_and_then", "max_draws": 3}, prompts_per_step=3)
    run_ahead(tiny_model_folder, tmp_path, config, {"default": task_of(now_and_then, 10)})
    ages = {step - version for step, found in enumerate(seen.versions()) for version in found}
    assert {0, 1} <= ages  # drawn again, and drawn ahead
    for row in rows_of(tmp_path):
        assert row["logprob_mismatch"] < 1e-4
    kept = [{row["version"] for row in completions(tmp_path) if row["step"] == step + 1} for step in range(6)]
    assert all(found <= versions for found, versions in zip(seen.versions(), kept, strict=True))
    assert set().union(*kept) > {0}


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
    run_ahead(tiny_model_folder, tmp_path, config)
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


def logprobs(model: Any, row: TrainRow) -> torch.Tensor:
    done = row.rollout.completion
    table = model(input_ids=torch.tensor([[*row.prompt_ids, *done.token_ids]])).logits[0].log_softmax(-1)
    return torch.stack([table[len(row.prompt_ids) + t - 1, token] for t, token in enumerate(done.token_ids)])


# ---- the gate


def test_lawful_staleness_passes_and_a_missed_sync_does_not(inside, tiny_model_folder, tmp_path, monkeypatch):
    config = ahead_of(optimizer={"lr": 5e-2})
    run_ahead(tiny_model_folder, tmp_path / "good", config)
    rows = rows_of(tmp_path / "good")
    assert all(row["logprob_mismatch"] < 1e-5 and row["logprob_mismatch_max"] < 1e-4 for row in rows)
    assert max(abs(row["correction"] - 1) for row in rows) > 0.02  # though the policy has moved far

    original, calls = LocalEngine.sync, itertools.count(1)
    monkeypatch.setattr(LocalEngine, "sync", lambda *both: original(*both) if next(calls) != 3 else None)
    with pytest.raises(UserError, match="same tokens differ by"):
        run_ahead(tiny_model_folder, tmp_path / "bad", config)
    # the third sync, after two updates, was for the rollout of the fourth: seen before that begins
    assert [row["step"] for row in rows_of(tmp_path / "bad")] == [1, 2, 3]


def test_the_gate_looks_at_every_group(inside, tiny_model_folder, tmp_path, monkeypatch):
    """Several servers, one of which is wrong."""
    original = LocalEngine.generate

    def generate(self: LocalEngine, *arguments: Any, step: int, **options: Any) -> Any:
        *right, last = original(self, *arguments, step=step, **options)
        if step < 2:
            return [*right, last]
        wrong = [replace(r.completion, logprobs=tuple(x - 1 for x in r.completion.logprobs)) for r in last.rollouts]
        return [*right, replace(last, rollouts=tuple(Rollout(done) for done in wrong))]

    monkeypatch.setattr(LocalEngine, "generate", generate)
    with pytest.raises(UserError, match="same tokens differ by"):
        run_ahead(tiny_model_folder, tmp_path, ahead_of())
    assert [row["step"] for row in rows_of(tmp_path)] == [1, 2]


def test_agreement_that_was_measured_in_parts_is_that_of_all():
    gen, trainer = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.5, -2.0, -3.1])
    whole, first, second = StepStats(), StepStats(), StepStats()
    whole.compare(gen, trainer)
    first.compare(gen[:2], trainer[:2])
    second.compare(gen[2:], trainer[2:])
    first.add_agreement(StepStats(**json.loads(json.dumps(second.pack_agreement()))))
    assert first.agreement() == pytest.approx(whole.agreement())
    assert whole.agreement()["logprob_mismatch"] == pytest.approx(0.2)


# ---- going on

RUNS: dict[str, dict[str, Any]] = {
    "several-updates-epochs-kl-refresh-difficulty": DIFFICULTY
    | {"rollout_prompts": 4, "inner_epochs": 2, "steps": 11}
    | {"loss": {"beta": 0.05}, "reference_every": 3, "optimizer": COSINE},
    "dynamic-sampling-and-difficulty": POOLED | {"rollout_prompts": 4, "steps": 10},
    "changing": CHANGING,
    "lora-and-dropout": {"lora": {"r": 4, "alpha": 8, "dropout": 0.2}, "optimizer": {"lr": 2e-2}},
}


def in_update(at: int, act: Callable[[], None]) -> Callable[[pytest.MonkeyPatch], None]:
    """Patches the update after `at` steps to begin with `act`."""
    return lambda patch: before(patch, trainer, "update", lambda *_, step, **__: step == at and act())


def broken_ahead(change: Callable[[pytest.MonkeyPatch], Any], *arguments: Any, **options: Any) -> None:
    broken(change, *arguments, **{"engine_config": AHEAD} | options)


@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_is_the_uninterrupted_one(name, inside, tiny_model_folder, tmp_path):
    """Bitwise; killed while a rollout is sampled ahead, and in the middle of updates."""
    config = ahead_of(**RUNS[name])
    tasks = {"default": task_of(), "late": task_of(length, 3, "late", last_steps=4, share=0.5)}
    whole = run_ahead(tiny_model_folder, tmp_path / "whole", config, tasks)
    cut = tmp_path / "cut"
    for kill in (lambda patch: interrupt_at(patch, 4), in_update(5, die)):
        broken_ahead(kill, tiny_model_folder, cut, config, tasks=tasks)
    resumed = run_ahead(tiny_model_folder, cut, config, tasks)
    assert_same_run(cut, tmp_path / "whole")
    assert (resumed.steps, resumed.tokens) == (whole.steps, whole.tokens)


@pytest.mark.parametrize("name", ["dynamic-sampling-and-difficulty", "lora-and-dropout"])
def test_a_stop_does_not_wait_for_what_is_sampled(name, inside, tiny_model_folder, tmp_path, monkeypatch):
    """The weights that were to draw it are saved; they draw it after the restart, bit for bit. The signal comes in an
    update, or while the trainer waits."""
    config = ahead_of(**RUNS[name], checkpoint={})
    run_ahead(tiny_model_folder, tmp_path / "whole", config)
    begun = itertools.count(1)

    def third_hangs(work: Callable[[], Any]) -> Future[Any]:
        return at_once(work) if next(begun) < 3 else Future()

    def stop(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def stuck(patch: pytest.MonkeyPatch) -> None:
        patch.setattr("grpo.rollout.ahead.in_background", third_hangs)
        if name == "lora-and-dropout":
            patch.setattr("grpo.rollout.ahead.wait", stop)
        else:
            in_update(5, stop)(patch)

    broken_ahead(stuck, tiny_model_folder, tmp_path / "cut", config, end=SystemExit)
    checkpoint = last_good(tmp_path / "cut" / "checkpoints")
    assert checkpoint is not None
    waiting = read_state(checkpoint).source["waiting"]
    assert waiting["groups"] is None
    assert (checkpoint / "behaviour.safetensors").is_file()
    with monkeypatch.context() as patch:
        asked = asked_steps(patch)
        run_ahead(tiny_model_folder, tmp_path / "cut", config)
    assert asked[0] == waiting["step"] == waiting["version"] + config.updates_per_rollout
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_what_is_finished_is_kept_with_its_log_probs_and_not_sampled_again(
    inside, tiny_model_folder, tmp_path, monkeypatch
):
    config = ahead_of()
    broken_ahead(in_update(5, die), tiny_model_folder, tmp_path, config)
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
    run_ahead(tiny_model_folder, tmp_path, config)
    assert asked == [5]


def test_a_signal_in_an_update_waits_for_what_is_sampled_and_keeps_it(inside, tiny_model_folder, tmp_path, monkeypatch):
    config = ahead_of(checkpoint={}, rollout_prompts=4)
    run_ahead(tiny_model_folder, tmp_path / "whole", config)
    told = in_update(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    broken_ahead(told, tiny_model_folder, tmp_path / "cut", config, end=SystemExit)
    checkpoint = last_good(tmp_path / "cut" / "checkpoints")
    assert checkpoint is not None
    assert read_state(checkpoint).source["waiting"]["step"] == 4
    asked = asked_steps(monkeypatch)
    run_ahead(tiny_model_folder, tmp_path / "cut", config)
    assert asked == []  # the last rollout was there already
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.fixture(scope="module")
def cut(tiny_model_folder, tmp_path_factory):
    """A run of two tasks that died in the fifth update; what it then trained on had waited in the checkpoint."""
    out = tmp_path_factory.mktemp("cut")
    with pytest.MonkeyPatch.context() as patch:
        put_inside(patch)
        broken_ahead(in_update(4, die), tiny_model_folder, out, ahead_of(), tasks=two_tasks())
    return out


def two_tasks(count: int = 6) -> dict[str, Any]:
    return {"default": task_of(count=count), "kept": task_of(length, 9, "kept")}


@pytest.mark.parametrize(
    "changed", [{"rollout_prompts": 8}, {"group_size": 2}, {"sampling": {"max_tokens": 4}}, {"tasks": 4}], ids=str
)
def test_what_waits_and_fits_no_longer_is_dropped_and_its_prompts_come_first(
    changed, cut, inside, tiny_model_folder, tmp_path, caplog
):
    """With accepted changes of settings, or of one task's data."""
    out = shutil.copytree(cut, tmp_path / "run")
    waited = [(row["task"], row["prompt_id"]) for row in completions(out) if row["step"] == 5]
    tasks = two_tasks(changed.get("tasks", 6))
    config = ahead_of(**{key: value for key, value in changed.items() if key != "tasks"})
    with caplog.at_level("WARNING", "grpo"):
        run_ahead(tiny_model_folder, out, config, tasks, accept_changes=True)
    assert "what was sampled ahead of step 5 is dropped" in caplog.text
    fifth = [row for row in completions(out) if row["step"] == 5]
    found = [(row["task"], row["prompt_id"]) for row in fifth]
    again = [key for key in waited if "tasks" not in changed or key[0] == "kept"]
    assert again
    assert set(again) <= set(found)
    assert len(found) == config.group_size * (config.rollout_prompts or config.prompts_per_step)
    assert {row["version"] for row in fifth} == {4}
    assert rows_of(out)[4]["completion_length"] <= config.sampling.max_tokens
    assert [row["step"] for row in rows_of(out)] == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_needs_no_engine(inside, tiny_model_folder, tmp_path, monkeypatch):
    run_ahead(tiny_model_folder, tmp_path, ahead_of(steps=2))
    synced: list[Any] = []
    monkeypatch.setattr(LocalEngine, "sync", lambda *arguments: synced.append(arguments))
    run_ahead(tiny_model_folder, tmp_path, ahead_of(steps=2))
    assert synced == []


@pytest.mark.slow
def test_turned_on_or_off_in_the_middle(inside, tiny_model_folder, tmp_path):
    """With --accept-changes: what waits is trained, and then all is as the settings say."""
    config = ahead_of()
    for first, then in ((AHEAD, EngineConfig()), (EngineConfig(), AHEAD)):
        out = tmp_path / str(then.ahead)
        broken_ahead(in_update(3, die), tiny_model_folder, out, config, engine_config=first)
        with pytest.raises(UserError, match=rf"engine\.ahead: {first.ahead} -> {then.ahead}"):
            run_ahead(tiny_model_folder, out, config, engine_config=then)
        run_ahead(tiny_model_folder, out, config, engine_config=then, accept_changes=True)
        stale = [row["staleness"] for row in rows_of(out) if row["applied"]]
        assert stale == ([0, 1, 1, 0, 0, 0] if first.ahead else [0, 0, 0, 1, 1, 1])


# ---- vLLM servers


def test_servers_are_asked_while_the_trainer_updates_and_synced_when_they_are_done(
    tiny_model_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("grpo.run.mismatch_limit", lambda *_: 1e9)  # the fake server draws from a hash
    with fake_vllm(tmp_path) as server:
        versions: list[str] = []
        server.fault = lambda path, body: versions.append(server.version) if path == GENERATE else None
        updated: list[int] = []  # how many requests the server had had at each update
        before(monkeypatch, trainer, "update", lambda *_, **__: updated.append(len(server.bodies)))
        tree = {"kind": "vllm-server", "ahead": True, "server": {"urls": [server.url], "folder": str(tmp_path)}}
        engine = EngineConfig.model_validate(tree)
        run_ahead(tiny_model_folder, tmp_path / "run", ahead_of(steps=4), engine_config=engine)
        asked = versions[1:]  # after the probe
    assert [version.rpartition("-")[2] for version in asked] == ["1"] * 4 + ["2"] * 2 + ["3"] * 2  # 2 prompts a rollout
    assert updated[0] >= 1 + 2
    assert [row["staleness"] for row in rows_of(tmp_path / "run")] in ([0, 1, 1, 1], [None] * 4)
    # /pause aborts what is being sampled: it comes after all of it. The first request is a probe.
    calls = [path for path in server.calls if path in (GENERATE, "/pause")]
    one = [GENERATE] * 2
    assert calls == [GENERATE, "/pause", *one, *one, "/pause", *one, "/pause", *one, "/pause"]


# ---- where it cannot be


def test_what_cannot_be_honoured_is_refused(tiny_model_folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"engine\.ahead .*: set 'correction'"):
        run_ahead(tiny_model_folder, tmp_path, config_of())
    with pytest.raises(ValueError, match="'ahead' needs an engine beside the trainer"):
        EngineConfig.model_validate({"kind": "vllm", "ahead": True})
    with monkeypatch.context() as patch:
        patch.setattr("grpo.run.engine_kind", lambda *_: "vllm")
        with pytest.raises(UserError, match="'ahead' needs an engine beside the trainer"):
            run_ahead(tiny_model_folder, tmp_path, ahead_of(), engine_config=EngineConfig(kind="auto", ahead=True))
    monkeypatch.setattr("grpo.run.launched", lambda: True)
    with pytest.raises(UserError, match="the trainer must be one process"):
        run_ahead(tiny_model_folder, tmp_path, ahead_of())
    assert not (tmp_path / "metrics.jsonl").exists()
