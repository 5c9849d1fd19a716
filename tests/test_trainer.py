"""The loop: it learns, goes on after a kill as if nothing had happened, and its metrics hold what the design says."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from grpo.config.engine import RuntimeConfig
from grpo.data.rows import read_jsonl
from grpo.engines.local.engine import LocalEngine
from grpo.errors import UserError
from grpo.learner import batching
from grpo.learner.learner import Learner
from grpo.learner.make import make_learner
from grpo.learner.schedule import lr_factor
from grpo.learner.update import update
from grpo.model.policy import load_policy
from grpo.model.reference import Reference
from grpo.scoring.table import Reward
from support.models import move
from support.runs import (
    CHANGING,
    COSINE,
    CPU,
    LEARNING,
    POOLED,
    assert_equal,
    assert_learnt,
    assert_same_run,
    before,
    checkpointed,
    completions,
    config_of,
    digits,
    killed_at,
    length,
    rows_of,
    run,
    task_of,
    weights,
)


def equal(completions: list[str], **_: Any) -> list[float]:
    return [0.1] * len(completions)


def test_it_learns_a_toy_reward(tiny_model_folder, tmp_path):
    result = run(tiny_model_folder, tmp_path, config_of(**LEARNING))
    assert_learnt(tmp_path)
    assert result.steps == 16
    assert result.model == tmp_path / "model"
    assert result.metrics["step"] == 16
    assert result.tokens == sum(row["completion_length"] for row in rows_of(tmp_path)) * 32


RUNS = {
    "plain": {},
    "kl": {"loss": {"beta": 0.05}},
    "kl-refresh": {"loss": {"beta": 0.05}, "reference_every": 3, "steps": 9},
    "several-updates": {"rollout_prompts": 6, "steps": 9, "checkpoint": {"every": 3, "keep": 100}},
    "several-updates-kl-refresh": {
        "rollout_prompts": 4,
        "loss": {"beta": 0.05},
        "reference_every": 3,
        "steps": 10,
        "optimizer": COSINE,
    },
    "steps-end-inside-a-rollout": {"rollout_prompts": 8, "steps": 7},
    "inner-epochs": {"rollout_prompts": 4, "inner_epochs": 2, "steps": 10},
    "kl-in-reward": {"loss": {"beta": 0.05, "kl": {"estimator": "k1", "placement": "reward"}}},
    "dynamic-sampling-and-difficulty": POOLED | {"rollout_prompts": 4, "steps": 10},
    "corrections-and-masks": {
        "loss": {"entropy_bonus": 0.01, "dual_clip": 3, "off_policy_mask": 0.1},
        "correction": {"level": "sequence", "mode": "mask"},
        "truncated": "mask",
        "dynamic_sampling": {"reward": "digits"},
    },
    "dapo": {"preset": "dapo"},
    "changing": CHANGING,
}


@pytest.mark.parametrize("name", list(RUNS))
def test_an_interrupted_run_is_the_uninterrupted_one(name, tiny_model_folder, tmp_path):
    """Invariant 7, bitwise: weights, metrics, completions; each step exactly once; killed twice, once after steps that
    were not checkpointed."""
    config = config_of(**RUNS[name])
    tasks = {"default": task_of(), "late": task_of(length, 3, "late", last_steps=4, share=0.5)}
    whole = run(tiny_model_folder, tmp_path / "whole", config, tasks)
    cut = tmp_path / "cut"
    for step in (3, 3) if config.rollout_prompts == 8 else (3, 5):
        killed_at(step, tiny_model_folder, cut, config, tasks)
    assert not (cut / "model").exists()
    (cut / "metrics.jsonl").open("a").write('{"step": 6, "rew')  # and the last line was cut short
    resumed = run(tiny_model_folder, cut, config, tasks)

    assert [row["step"] for row in rows_of(cut)] == list(range(1, config.steps + 1))
    assert_same_run(cut, tmp_path / "whole")
    assert (resumed.steps, resumed.tokens) == (whole.steps, whole.tokens)


@pytest.mark.parametrize("placement", ["loss", "reward"])
def test_a_change_on_the_way_is_going_on_with_other_settings(placement, tiny_model_folder, tmp_path):
    """Both halves by themselves: up to step 2 with the first values, then from its checkpoint with the second."""
    kl = {"estimator": "k1", "placement": "reward"} if placement == "reward" else {}
    loss = CHANGING["loss"] | ({"kl": kl} if kl else {})
    changing = config_of(**CHANGING | {"steps": 4, "loss": loss})
    run(tiny_model_folder, tmp_path / "whole", changing)
    first, second = changing.at(0), changing.at(2)
    assert second.loss.kl_in_loss == (placement == "loss")
    assert second.loss.kl_in_reward == (placement == "reward")
    killed_at(2, tiny_model_folder, tmp_path / "cut", first)
    run(tiny_model_folder, tmp_path / "cut", second, accept_changes=True)
    ours, theirs = rows_of(tmp_path / "whole"), rows_of(tmp_path / "cut")
    settings = {key: [row.pop(key) for row in ours] for key in list(ours[0]) if key.startswith("setting/")}
    assert settings == {
        "setting/sampling.temperature": [1.0, 1.0, 0.7, 0.7],
        "setting/sampling.max_tokens": [4, 4, 8, 8],
        "setting/loss.clip_high": [0.2, 0.2, 0.01, 0.01],
        "setting/loss.beta": [0.0, 0.0, 0.05, 0.05],
    }
    assert ours == theirs
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert [row["kl"] is None for row in ours] == [True, True, False, False]


def test_a_finished_run_started_again_does_nothing_new(tiny_model_folder, tmp_path):
    config = config_of(steps=4)
    first = run(tiny_model_folder, tmp_path, config)
    kept, rows = weights(tmp_path), (tmp_path / "metrics.jsonl").read_text()
    again = run(tiny_model_folder, tmp_path, config)
    assert_equal(weights(tmp_path), kept)
    assert (tmp_path / "metrics.jsonl").read_text() == rows
    assert (again.steps, again.tokens) == (first.steps, first.tokens)
    assert again.metrics["step"] == 4  # the last step's row, also when no step was left to do
    assert again.metrics["reward"] == first.metrics["reward"]


def test_a_half_written_checkpoint_is_not_taken(tiny_model_folder, tmp_path):
    config = config_of()
    run(tiny_model_folder, tmp_path / "whole", config)
    killed_at(5, tiny_model_folder, tmp_path / "cut", config)
    folder = tmp_path / "cut" / "checkpoints"
    assert checkpointed(tmp_path / "cut") == ["step-000002", "step-000004"]
    (folder / ".step-000006.partial").mkdir()
    (folder / "step-000005").mkdir()  # no state in it
    (folder / "step-000005" / "model.safetensors").write_bytes(b"")
    run(tiny_model_folder, tmp_path / "cut", config)
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")


def test_checkpoints_come_when_due_and_the_last_ones_are_kept(tiny_model_folder, tmp_path):
    run(tiny_model_folder, tmp_path / "a", config_of(steps=7, checkpoint={"every": 2, "keep": 2}))
    assert checkpointed(tmp_path / "a") == ["step-000004", "step-000006"]
    run(tiny_model_folder, tmp_path / "b", config_of(steps=9, rollout_prompts=6, checkpoint={"every": 4, "keep": 9}))
    assert checkpointed(tmp_path / "b") == ["step-000006"]  # the next boundary; 9 - 6 < 4
    run(tiny_model_folder, tmp_path / "c", config_of(checkpoint={}))
    assert checkpointed(tmp_path / "c") == []


def test_two_runs_are_equal_and_another_seed_is_not(tiny_model_folder, tmp_path):
    config = config_of(steps=3)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(tiny_model_folder, tmp_path / name, config, seed=seed)
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b") != rows_of(tmp_path / "c")
    first, second = ([row["completion"] for row in completions(tmp_path / n)] for n in "ac")
    assert first != second


def test_checkpointing_itself_changes_nothing(tiny_model_folder, tmp_path):
    for name, checkpoint in (("a", {}), ("b", {"every": 1})):
        run(tiny_model_folder, tmp_path / name, config_of(checkpoint=checkpoint))
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


@pytest.mark.parametrize(
    ("updates", "steps", "every", "expected"),
    [
        (1, 7, 2, [2, 4, 6]),
        (1, 6, 3, [3, 6]),
        (2, 10, 3, [4, 6, 10]),  # the first rollout boundary at or after 3, 6, 9
        (4, 12, 3, [4, 8, 12]),
    ],
)
def test_the_reference_is_refreshed_when_due(updates, steps, every, expected, tiny_model_folder, tmp_path, monkeypatch):
    refreshed = []
    original = Reference.replace_by

    def noting(self: Reference, policy: Any) -> None:
        original(self, policy)
        refreshed.append(policy)
        assert all(torch.equal(self.values[name], p) for name, p in policy.model.named_parameters())

    monkeypatch.setattr(Reference, "replace_by", noting)
    config = config_of(steps=steps, rollout_prompts=2 * updates, reference_every=every, loss={"beta": 0.05})
    run(tiny_model_folder, tmp_path, config)
    kl = {row["step"]: row["kl"] for row in rows_of(tmp_path)}
    assert len(refreshed) == len(expected)
    # right after a refresh policy and reference are the same model: the KL of the next update is zero
    zero = [step - 1 for step, value in kl.items() if abs(value) < 1e-8]
    assert zero == [0, *[step for step in expected if step < steps]]
    assert not any(value < -1e-8 for value in kl.values())


def test_beta_zero_loads_no_reference(tiny_model_folder, tmp_path, monkeypatch):
    made: list[Any] = []
    before(monkeypatch, Reference, "of", made.append)
    run(tiny_model_folder, tmp_path / "a", config_of(steps=1))
    assert made == []
    assert rows_of(tmp_path / "a")[0]["kl"] is None
    run(tiny_model_folder, tmp_path / "b", config_of(steps=1, loss={"beta": 0.1}))
    assert len(made) == 1
    assert rows_of(tmp_path / "b")[0]["kl"] == pytest.approx(0, abs=1e-9)


CONTRACT = {
    "step", "reward", "reward/digits", "reward/length", "reward_std", "frac_zero_variance", "kl", "clip_fraction",
    "entropy", "grad_norm", "lr", "loss", "completion_length", "truncated_fraction", "logprob_mismatch",
    "logprob_mismatch_max", "seconds", "seconds/generate", "seconds/reward", "seconds/update", "tokens_per_second",
}  # fmt: skip


def test_every_row_has_the_keys_of_the_contract(tiny_model_folder, tmp_path):
    """DESIGN section 4; a value that is not defined is null, not absent: also of a task that has not joined yet."""
    tasks = {"default": task_of(), "late": task_of(length, 3, "late", last_steps=1)}
    run(tiny_model_folder, tmp_path, config_of(steps=3), tasks)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    rows = rows_of(tmp_path, timings=True)
    for row in rows:
        assert row.keys() >= CONTRACT, CONTRACT - row.keys()
        assert row.keys() == rows[0].keys()
        assert 0 <= row["truncated_fraction"] <= 1
        assert 1 <= row["completion_length"] <= 8
        assert 0 < row["entropy"] < math.log(200)
        assert 0 <= row["logprob_mismatch"] <= row["logprob_mismatch_max"] < 1e-4
        phases = sum(value for key, value in row.items() if key.startswith("seconds/"))
        assert row["seconds"] == pytest.approx(phases)
        assert row["kl"] is None
    assert [row["reward/length"] is None for row in rows] == [True, True, False]


def test_a_run_with_nothing_to_train_says_so_and_keeps_the_model(tiny_model_folder, tmp_path):
    config = config_of(optimizer={"lr": 1e-2, "weight_decay": 0.5})
    run(tiny_model_folder, tmp_path, config, {"default": task_of(equal)})
    assert_equal(weights(tmp_path), weights(tiny_model_folder, "."))
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]  # the schedule advances
    for row in rows:
        assert (row["frac_zero_variance"], row["loss"], row["applied"], row["grad_norm"]) == (1.0, 0.0, 0.0, None)
        assert (row["reward"], row["reward_std"]) == (pytest.approx(0.1), pytest.approx(0.0, abs=1e-12))
        assert row["logprob_mismatch"] < 1e-4


def test_a_later_update_with_nothing_to_train_is_no_mismatch(tiny_model_folder, tmp_path):
    """The policy has moved since the rollout was drawn: that is drift, not a stale sync, and must not stop the run."""

    def only_one_prompt(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        return [d if p == "default0=" else 0.5 for p, d in zip(prompts, digits(completions), strict=True)]

    run(tiny_model_folder, tmp_path, config_of(rollout_prompts=6), {"default": task_of(only_one_prompt)})
    rows = rows_of(tmp_path)
    assert sorted(row["applied"] for row in rows) == [0.0] * 4 + [1.0] * 2
    for rollout in (rows[:3], rows[3:]):
        trained = [row["applied"] for row in rollout].index(1.0)
        for index, row in enumerate(rollout):
            if index and index != trained:  # not the rollout's first: there is nothing left to compare with
                assert row["logprob_mismatch"] is None
            else:
                assert row["logprob_mismatch"] < 1e-4


def test_stale_weights_stop_the_run(tiny_model_folder, tmp_path, monkeypatch):
    original = LocalEngine.generate

    def stale(self: LocalEngine, *args: Any, step: int, **kwargs: Any) -> Any:
        groups = original(self, *args, step=step, **kwargs)
        if step == 2:
            move(self.model, 0.03)
        return groups

    monkeypatch.setattr(LocalEngine, "generate", stale)
    with pytest.raises(UserError, match="same tokens differ by"):
        run(tiny_model_folder, tmp_path, config_of())
    assert [row["step"] for row in rows_of(tmp_path)] == [1, 2]
    assert not (tmp_path / "model").exists()


def test_sixteen_mini_batches_score_pi_old_once(tiny_model_folder, tmp_path, monkeypatch):
    """R1's 16 updates a rollout; with one update no forward at all is spent on pi_old (counted in rows)."""
    scored: list[int] = []
    before(monkeypatch, Learner, "logprobs", lambda _, rows: scored.append(len(rows)))
    run(tiny_model_folder, tmp_path / "a", config_of(steps=4))
    assert scored == []
    config = config_of(steps=16, prompts_per_step=1, rollout_prompts=16)
    run(tiny_model_folder, tmp_path / "b", config, {"default": task_of(count=16)})
    trained = sum(row["advantage"] != 0 for row in completions(tmp_path / "b"))
    assert scored == [trained]
    rows = rows_of(tmp_path / "b")
    assert rows[0]["ratio_min"] == pytest.approx(1, abs=1e-5)
    assert rows[0]["ratio_max"] == pytest.approx(1, abs=1e-5)
    assert rows[0]["clip_fraction"] == 0.0
    assert max(row["policy_drift"] for row in rows[8:]) > 1e-4
    assert [row["staleness"] for row in rows] == [
        float(index) if row["trained_tokens"] else None for index, row in enumerate(rows)
    ]
    assert [row["tokens_per_second"] is None for row in rows_of(tmp_path / "b", timings=True)] == [False] + [True] * 15


def test_leftovers_are_stale_and_corrected_and_no_mismatch(tiny_model_folder, tmp_path):
    def now_and_then(completions: list[str], prompts: list[str], **_: Any) -> list[float]:
        return [d if p[-2] in "024" else 0.0 for p, d in zip(prompts, digits(completions), strict=True)]

    config = config_of(
        steps=8,
        prompts_per_step=3,
        dynamic_sampling={"reward": "now_and_then", "max_draws": 5},
        correction={},
        checkpoint={},
    )
    run(tiny_model_folder, tmp_path, config, {"default": task_of(now_and_then, 10)})
    rows = rows_of(tmp_path)
    stale = [row for row in rows if row["staleness"] > 0]
    assert stale
    for row in stale:
        assert row["staleness_max"] >= 1
        assert row["correction_max"] > 1 + 1e-3
    for row in rows:
        assert row["logprob_mismatch"] is None or row["logprob_mismatch"] < 1e-4
        assert row["frac_zero_variance"] < 1
        if row["staleness"] == 0:
            assert row["correction"] == pytest.approx(1, abs=1e-4)


def test_truncated_completions_can_be_left_out(tiny_model_folder, tmp_path):
    for choice in ("keep", "mask", "penalise"):
        run(tiny_model_folder, tmp_path / choice, config_of(steps=1, truncated=choice))
    keep, mask, punish = (rows_of(tmp_path / choice)[0] for choice in ("keep", "mask", "penalise"))
    assert 0 < keep["truncated_fraction"] == mask["truncated_fraction"] < 1
    ended = [row for row in completions(tmp_path / "mask") if row["finish_reason"] == "stop"]
    assert mask["trained_tokens"] < keep["trained_tokens"]
    assert mask["reward"] == keep["reward"]  # their rewards still say how good the group is
    assert len(ended) == round((1 - mask["truncated_fraction"]) * 8)
    assert punish["reward/overlong"] <= -punish["truncated_fraction"]
    assert punish["reward"] == pytest.approx(keep["reward"] + punish["reward/overlong"])
    assert "reward/overlong" not in keep


def test_a_kl_in_the_reward_is_taken_from_it(tiny_model_folder, tmp_path):
    kl = {"estimator": "k1", "placement": "reward"}
    run(tiny_model_folder, tmp_path, config_of(steps=3, loss={"beta": 0.5, "kl": kl}))
    rows = completions(tmp_path)
    assert all(row["reward"] == pytest.approx(row["rewards"]["digits"], abs=1e-5) for row in rows if row["step"] == 1)
    assert any(abs(row["reward"] - row["rewards"]["digits"]) > 1e-3 for row in rows if row["step"] == 3)
    assert [abs(row["kl"]) > 1e-4 for row in rows_of(tmp_path)] == [False, True, True]


@pytest.mark.parametrize("section", ["dynamic_sampling", "difficulty"])
def test_an_option_on_a_reward_that_is_not_there_names_the_nearest(section, tiny_model_folder, tmp_path):
    with pytest.raises(UserError, match=rf"'{section}.reward': no task has a reward 'digit' \(did you mean 'digits'"):
        run(tiny_model_folder, tmp_path, config_of(**{section: {"reward": "digit"}}))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_column_that_no_row_has_is_missed_before_anything_is_loaded(tiny_model_folder, tmp_path, monkeypatch):
    """It was missed after the first rollout."""

    def unit(completions: list[str], unit: list[str]) -> list[float]:
        raise AssertionError

    monkeypatch.setattr("grpo.run.load_policy", None)
    for reward, words in (
        (Reward("r", unit), "reward 'r' needs 'unit', which the data does not have"),
        (Reward("r", equal, columns={"gold": "unit"}), "columns: the data has no column 'unit'"),
    ):
        with pytest.raises(UserError, match=words):
            run(tiny_model_folder, tmp_path, config_of(), {"default": replace(task_of(), rewards=[reward])})


def test_completions_are_saved_with_their_rewards(tiny_model_folder, tmp_path):
    run(tiny_model_folder, tmp_path, config_of(steps=2))
    rows = completions(tmp_path)
    assert len(rows) == 2 * 2 * 4
    for row in rows:
        assert row["reward"] == row["rewards"]["digits"] == pytest.approx(digits([row["completion"]])[0])
        assert row["finish_reason"] in ("stop", "length")
    assert {row["step"] for row in rows} == {1, 2}
    by_group: dict[Any, float] = {}
    for row in rows:
        key = (row["step"], row["prompt_id"])
        by_group[key] = by_group.get(key, 0.0) + row["advantage"]
    assert all(abs(total) < 1e-9 for total in by_group.values())


def test_the_saved_model_is_the_trained_one_and_generates(tiny_model_folder, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run(tiny_model_folder, tmp_path, config_of(steps=2))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.chat_template
    assert model.config.eos_token_id == 2
    assert model.generate(torch.tensor([[20, 30]]), max_new_tokens=3).shape[1] > 2
    changed = weights(tmp_path)
    assert any(not torch.equal(p, changed[n]) for n, p in weights(tiny_model_folder, ".").items())


def test_bfloat16_after_float32_in_one_process_and_with_a_reference(tiny_model_folder, tmp_path):
    """A notebook does that. Masters stay fp32: updates of 1e-6 are not rounded away (invariant 8)."""
    config = config_of(steps=2, loss={"beta": 0.05}, optimizer={"lr": 1e-6})
    run(tiny_model_folder, tmp_path / "a", config)
    run(tiny_model_folder, tmp_path / "b", config, runtime=RuntimeConfig(device="cpu", dtype="bfloat16"))
    rows = rows_of(tmp_path / "b")
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert 1e-6 < rows[0]["logprob_mismatch"] < 0.1  # it did compute in half precision
    start, after = weights(tiny_model_folder, "."), weights(tmp_path / "b")
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    moved = [(after[name] - start[name]).abs() for name in start if name.endswith("proj.weight")]
    assert min(float((m > 0).float().mean()) for m in moved) > 0.9
    run(tiny_model_folder, tmp_path / "c", config)  # and back


def test_a_late_task_in_a_run(tiny_model_folder, tmp_path):
    tasks = {"default": task_of(), "late": task_of(length, 3, "late", last_steps=2)}
    run(tiny_model_folder, tmp_path, config_of(steps=5), tasks)
    by_step: dict[int, list[str]] = {}
    for row in completions(tmp_path):
        by_step.setdefault(row["step"], []).append(row["task"])
    assert {s: n.count("late") for s, n in by_step.items()} == {1: 0, 2: 0, 3: 0, 4: 4, 5: 4}
    for row in completions(tmp_path):  # each judged by its own rewards
        assert set(row["rewards"]) == ({"length"} if row["task"] == "late" else {"digits"})


def test_the_rates_in_the_metrics_are_those_applied(tiny_model_folder, tmp_path):
    config = config_of(optimizer={"lr": 4e-3, "schedule": "cosine", "warmup_steps": 2, "min_lr": 4e-4}, checkpoint={})
    run(tiny_model_folder, tmp_path, config)
    expected = [4e-3 * lr_factor(config.optimizer, step, 6) for step in range(6)]
    assert [row["lr"] for row in rows_of(tmp_path)] == pytest.approx(expected)
    assert expected[-1] == pytest.approx(4e-4)


def test_a_run_whose_gradients_stay_not_finite_ends(tiny_model_folder, tmp_path, caplog):
    def huge(completions: list[str], **_: Any) -> list[float]:
        return [float(i % 2) for i in range(len(completions))]

    config = config_of(steps=30, advantage={"scale": "none"}, optimizer={"lr": 1e-3}, checkpoint={})
    task = replace(task_of(huge), rewards=[Reward("huge", huge, 1e30)])
    with caplog.at_level("WARNING", "grpo"), pytest.raises(UserError, match="not finite 20 times in a row"):
        run(tiny_model_folder, tmp_path, config, {"default": task})
    assert "step 1: the loss or gradient is not finite; the step was not applied; its batch is in" in caplog.text
    rows = rows_of(tmp_path)
    assert [row["nonfinite_steps"] for row in rows] == list(range(1, 21))
    assert {row["applied"] for row in rows} == {0.0}
    dumps = sorted((tmp_path / "nonfinite").iterdir())
    assert [file.name for file in dumps] == [f"step-{step:06d}.jsonl" for step in range(1, 6)]  # no more than that
    batch = read_jsonl(dumps[0])
    assert len(batch) == 8
    assert {row["reward"] for row in batch} == {0.0, 1e30}
    assert all(len(row["completion"]["token_ids"]) == len(row["completion"]["logprobs"]) for row in batch)


def test_the_gate_looks_at_a_fresh_group_when_only_leftovers_train(tiny_model_folder, tmp_path):
    """Leftovers say nothing about the engine: a rollout that trains only on them is compared all the same."""
    policy = load_policy(str(tiny_model_folder), CPU)
    config = config_of()
    learner = make_learner(policy, config, CPU)
    engine = LocalEngine(policy.model, policy.tokenizer, 64)
    prompts = task_of(count=2).prompts
    old, fresh = ([engine.generate([prompt], config.sample_settings(), seed=0, step=step)[0]] for prompt, step in
                  zip(prompts, (0, 3), strict=True))  # fmt: skip
    judged = [
        replace(group, rollouts=tuple(replace(r, reward=float(i), advantage=a) for i, r in enumerate(group.rollouts)))
        for group, a in ((old[0], 1.0), (fresh[0], 0.0))
    ]
    rows = batching.rows_of(judged)
    stats = update(learner, rows[:4], config, 1e-3, version=3, step=3, rollout=rows)
    assert stats["logprob_mismatch"] < 1e-4
    assert stats["staleness"] == 3.0
    move(policy.model)
    with pytest.raises(UserError, match="same tokens differ by"):
        update(learner, rows[:4], config, 1e-3, version=3, step=3, rollout=rows)
