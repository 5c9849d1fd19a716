"""One optimizer update: the same gradient however it is cut, nothing trained that should not be, and the gate."""

import itertools
import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch

import grpo.learner.learner
from grpo.config.engine import RuntimeConfig
from grpo.errors import UserError
from grpo.learner.batching import BatchPlan, TrainRow, contributing, model_input, normaliser_of, rows_of, split_updates
from grpo.learner.gate import check_mismatch
from grpo.learner.stats import StepStats
from grpo.model.packing import ModelInput
from grpo.model.policy import load_policy
from grpo.model.reference import Reference
from grpo.system.world import World
from grpo.types import Completion, Group, Rollout
from support.models import EOS, VOCAB_SIZE, make_model, model_logprobs, move, policy_of
from support.runs import assert_equal, before
from support.updates import (
    GROUP,
    MAX_TOKENS,
    Trial,
    assert_same_gradient,
    assert_same_metrics,
    assert_untouched,
    constant,
    gradients,
    only_the_first,
    snapshot,
    update_config,
    varied,
    with_old,
)

CPU = torch.device("cpu")


def count_forwards(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int]]:
    """(with gradient, trained tokens) of every forward through `token_logprobs`."""
    calls: list[tuple[bool, int]] = []

    def note(model: Any, rows: ModelInput, *_: Any, **__: Any) -> None:
        calls.append((torch.is_grad_enabled() and not torch.is_inference_mode_enabled(), len(rows.targets)))

    before(monkeypatch, grpo.learner.learner, "token_logprobs", note)
    return calls


def tokens_of(groups: list[Group]) -> int:
    return sum(len(r.completion.token_ids) for group in groups for r in group.rollouts)


def other_reference() -> Reference:
    return Reference.of(policy_of(seed=1))


LOSSES = {
    "sequence": {"aggregation": "sequence"},
    "token": {"aggregation": "token", "clip_high": 0.28},
    "constant": {"aggregation": "constant"},
    "prompt-dppo": {"aggregation": "prompt", "clip": "dppo", "clip_low": 2e-3, "clip_high": 2e-3},
    "sequence-kl": {"aggregation": "sequence", "beta": 0.05},
    "token-kl": {"aggregation": "token", "beta": 0.05},
}


@pytest.mark.parametrize("off_policy", [False, True], ids=["on", "off"])
@pytest.mark.parametrize("loss", list(LOSSES))
def test_the_cut_and_the_order_change_neither_gradient_nor_metrics(loss, off_policy):
    """Invariant 1: micro-batches of all rows, a few and one, groups cut in two, groups backwards, rows shuffled."""
    groups = Trial(**LOSSES[loss]).groups()
    reference = other_reference() if "beta" in LOSSES[loss] else None

    def run(size: int, groups: list[Group], shuffle: bool = False) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        trial = Trial(micro=size, **LOSSES[loss])
        rows = trial.scored(reference, groups)
        if off_policy:
            rows = [drifted(row) for row in rows]
        if shuffle:
            random.Random(1).shuffle(rows)
        return trial.gradient(rows, int(off_policy)), trial.update(rows, 1e-2, step=int(off_policy))

    expected, metrics = run(10_000, groups)
    for other in (run(60, groups), run(1, groups), run(10_000, groups[::-1]), run(30, groups, shuffle=True)):
        assert_same_gradient(other[0], expected)
        assert_same_metrics(other[1], metrics)
    if off_policy:
        assert 0 < metrics["clip_fraction"] < 1


def drifted(row: TrainRow) -> TrainRow:
    """Made-up old log-probs, some outside the clip range, the same in every run; the engine's are equal to them."""
    rng = random.Random(str(row.rollout.completion.token_ids))
    return with_old(row, tuple(p + rng.gauss(0, 0.2) for p in row.rollout.completion.logprobs))


def test_the_gradient_is_that_of_the_equation():
    """Against autograd through one plain unpadded forward per completion: on policy the gradient is
    -1/N sum_i A_i / |o_i| sum_t grad log pi, plus beta (1 - pi_ref/pi) grad log pi for the k3."""
    for beta in (0.0, 0.2):
        trial = Trial(beta=beta)
        model, reference = trial.policy.model, other_reference() if beta else None
        rows = trial.scored(reference, trial.groups())
        found = trial.gradient(rows)
        total: Any = 0.0
        for row in rows:
            ids = row.rollout.completion.token_ids
            start = len(row.prompt_ids)
            table = model(input_ids=torch.tensor([[*row.prompt_ids, *ids]])).logits[0].double() / 0.9
            picked = table.log_softmax(-1)[start - 1 : -1].gather(-1, torch.tensor(ids).unsqueeze(-1)).squeeze(-1)
            weight = torch.full_like(picked, -row.rollout.advantage)
            if reference is not None:
                ref = model_logprobs(make_model("qwen2", seed=1), row.prompt_ids, ids, 0.9)
                weight = weight + beta * (1 - (ref - picked.detach()).exp())
            total = total + (weight * picked).sum() / len(ids) / len(rows)
        total.backward()
        assert_same_gradient(found, gradients(model))


@pytest.mark.parametrize("share_prompts", [True, False])
def test_what_comes_after_the_end_token_has_no_say_and_the_end_token_has(share_prompts):
    """Invariant 2: targets are the sampled ids, the mask ends on the end token, and other ids in the padding of padded
    rows change nothing."""
    trial = Trial()
    learner = replace(trial.learner, fit=replace(trial.learner.fit, share_prompts=share_prompts))
    rows = trial.rows()
    assert {r.rollout.completion.finish_reason for r in rows} == {"stop", "length"}
    batch = learner.collate(rows)
    targets = batch.by_completion(batch.rows.targets)
    given = batch.rows.token_ids.flatten()
    for row, mask, ids in zip(rows, batch.mask, targets, strict=True):
        trained = ids[mask.bool()].tolist()
        assert tuple(trained) == row.rollout.completion.token_ids
        assert mask[: len(trained)].all()
        if row.rollout.completion.finish_reason == "stop":
            assert trained[-1] == EOS
            assert EOS not in trained[:-1]
    if share_prompts:
        assert EOS not in given  # it is predicted, and never read
        return
    noise = torch.randint(0, VOCAB_SIZE, batch.rows.token_ids.shape)
    beyond = torch.arange(noise.shape[1]) >= torch.tensor([row.length - 1 for row in rows]).unsqueeze(1)
    other = replace(batch.rows, token_ids=torch.where(beyond, noise, batch.rows.token_ids))
    assert not torch.equal(other.token_ids, batch.rows.token_ids)
    found = []
    for each in (other, batch.rows):
        learner.token_logprobs(each).logprobs.sum().backward()
        found.append(gradients(learner.model))
    assert_same_gradient(*found)


def test_the_end_token_alone_has_a_gradient():
    trial = Trial()
    end = Completion((EOS,), (-1.0,), "stop", "")
    rollouts = [Rollout(end, reward=1.0, advantage=1.0), Rollout(end, reward=0.0, advantage=-0.5)]
    found = trial.gradient([TrainRow((20, 30), r) for r in rollouts])
    logits = trial.policy.model(input_ids=torch.tensor([[20, 30]])).logits[0, -1] / 0.9
    (-(1.0 - 0.5) / 2 * logits.log_softmax(-1)[EOS]).backward()
    assert_same_gradient(found, gradients(trial.policy.model))


def test_zero_advantages_cost_no_forward_and_stay_in_the_denominators(monkeypatch):
    trial = Trial(micro=1000)
    groups = trial.groups(only_the_first)
    calls = count_forwards(monkeypatch)
    skipping = trial.gradient(rows_of(groups))
    assert calls == [(True, tokens_of(groups[:1]))]
    # the same with nothing skipped
    monkeypatch.setattr("grpo.learner.update.contributing", lambda rows, beta: list(rows))
    calls.clear()
    everything = trial.gradient(rows_of(groups))
    assert calls == [(True, tokens_of(groups))]
    assert_same_gradient(skipping, everything)


def test_zero_advantages_are_trained_when_beta_is_above_zero():
    """Their policy gradient is exactly zero, their KL gradient is not."""
    trial = Trial(beta=0.1)
    groups = trial.groups(constant)
    rows = trial.scored(other_reference(), groups)
    assert contributing(rows, trial.config.loss) == rows
    assert sum(g.norm() for g in trial.gradient(rows).values()) > 0
    same = trial.scored(Reference.of(trial.policy), groups)  # k3 of equal policies: 0, gradient too
    assert max(float(g.abs().max()) for g in trial.gradient(same).values()) < 1e-7


def test_excluded_rollouts_are_not_trained_and_not_counted():
    trial = Trial()
    groups = trial.groups(lambda i, j: None if j == 0 else varied(i, j))
    rows = rows_of(groups)
    assert len(rows) == 4 * (GROUP - 1)
    assert normaliser_of(rows, MAX_TOKENS).sequences == 4 * (GROUP - 1)
    stats = trial.update(rows)
    assert stats["applied"] == 1.0
    assert stats["trained_tokens"] == sum(len(r.completion.token_ids) for g in groups for r in g.rollouts[1:])


@pytest.mark.parametrize("reward", [constant, lambda i, j: None], ids=["equal", "excluded"])
def test_a_step_with_nothing_to_train_moves_nothing(reward, monkeypatch):
    """Invariant 5: AdamW's momentum and weight decay would move the weights, so the optimizer is not called."""
    trial = Trial(micro=1000)
    assert trial.update()["applied"] == 1.0
    start = snapshot(trial.learner)
    calls = count_forwards(monkeypatch)
    groups = trial.groups(reward)
    stats = trial.update(rows_of(groups))
    assert_untouched(trial.learner, start)
    assert stats["applied"] == 0.0
    assert stats["loss"] == 0.0
    assert stats["grad_norm"] is None
    assert stats["clip_fraction"] is None
    assert all(p.grad is None for p in trial.policy.model.parameters())
    if reward is constant:
        assert calls == [(False, tokens_of(groups[:1]))]  # one group is scored all the same
        assert 0 <= stats["logprob_mismatch"] < 1e-4
        assert stats["logprob_mismatch_max"] < 1e-4


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_moves_nothing(bad):
    trial = Trial()
    trial.update()
    start = snapshot(trial.learner)
    rows = trial.rows()
    rows[0] = replace(rows[0], rollout=replace(rows[0].rollout, advantage=bad))
    assert trial.update(rows)["applied"] == 0.0
    assert_untouched(trial.learner, start)
    assert trial.update()["applied"] == 1.0  # and the next one is clean


def test_a_step_whose_gradient_the_clip_took_altogether_moves_nothing():
    """Tokens were trained, but there is no gradient: AdamW's momentum would move the weights all the same."""
    trial = Trial()
    trial.update()
    start = snapshot(trial.learner)
    rows = []
    for row in trial.rows():
        far = -5.0 if row.rollout.advantage > 0 else 5.0  # ratios of e^5 and e^-5, on the clipped side
        rows.append(with_old(row, tuple(p + far for p in row.rollout.completion.logprobs)))
    stats = trial.update(rows, step=1)
    assert (stats["grad_norm"], stats["applied"], stats["clip_fraction"]) == (0.0, 0.0, 1.0)
    assert_untouched(trial.learner, start)


def test_on_policy_the_ratio_is_one():
    trial = Trial(beta=0.1)
    reference = Reference.of(trial.policy)
    rows = trial.scored(reference, trial.groups())
    assert all(row.rollout.old_logprobs is None for row in rows)
    stats = trial.update(rows)
    assert stats["clip_fraction"] == 0.0
    assert stats["kl"] == pytest.approx(0.0, abs=1e-9)
    advantages = sum(row.rollout.advantage for row in rows) / len(rows)
    assert stats["loss"] == pytest.approx(-advantages, abs=1e-6)
    assert stats["logprob_mismatch"] < 1e-4
    # after it, the policy has left the reference
    assert trial.update(trial.scored(reference, trial.groups()))["kl"] > 1e-6


def test_the_first_of_several_updates_is_on_policy_and_the_later_ones_are_clipped():
    trial = Trial(updates=2, clip_low=1e-3, clip_high=1e-3)
    batches = [trial.scored(None, batch) for batch in split_updates(trial.groups(), 2, 1, seed=0, step=0)]
    first, second = (trial.update(batch, 1e-2, step=step) for step, batch in enumerate(batches))
    assert first["clip_fraction"] == 0.0
    assert second["clip_fraction"] > 0.1
    assert second["logprob_mismatch"] < 1e-4  # against pi_old: the drift of the policy itself is no mismatch


@pytest.mark.parametrize(
    ("updates", "beta", "expected"),
    [
        (1, 0.0, [True]),  # no forward for pi_old
        (1, 0.1, [False, True]),  # the reference
        (2, 0.0, [False] * 2 + [True] * 2),  # pi_old once for each sequence
        (2, 0.1, [False] * 4 + [True] * 2),
    ],
)
def test_forwards_are_as_few_as_the_design_says(updates, beta, expected, monkeypatch):
    trial = Trial(updates=updates, micro=1000, beta=beta)
    reference = Reference.of(trial.policy) if beta else None
    groups = trial.groups()
    calls = count_forwards(monkeypatch)
    scored = [trial.scored(reference, batch) for batch in split_updates(groups, updates, 1, 0, 0)]
    for index, rows in enumerate(scored):
        trial.update(rows, step=index)
    assert [grad for grad, _ in calls] == expected
    assert sum(tokens for _, tokens in calls) == len(expected) // updates * tokens_of(groups)


def test_old_logprobs_are_spent_only_on_rows_that_train(monkeypatch):
    trial = Trial(updates=2, micro=1000)
    groups = trial.groups(only_the_first)
    calls = count_forwards(monkeypatch)
    for batch in split_updates(groups, 2, 1, 0, 0):
        trial.scored(None, batch)
    assert calls == [(False, tokens_of(groups[:1]))]


@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize("reward", [varied, constant], ids=["training", "nothing-to-train"])
def test_the_gate_stops_on_stale_weights_before_the_optimizer(reward, updates):
    """Invariant 3: the weights change after sampling, as with a sync that did not happen."""
    trial = Trial(updates=updates)
    trial.update()  # there is momentum
    groups = trial.groups(reward)
    move(trial.policy.model)
    start = snapshot(trial.learner)
    rows = trial.scored(None, split_updates(groups, updates, 1, 0, 0)[0])
    with pytest.raises(UserError, match=r"log-probs of the same tokens differ by \d\.\d+ on average"):
        trial.update(rows)
    assert_untouched(trial.learner, start)


@pytest.mark.parametrize("lr", [1e-3, 1e-5])
def test_the_gate_sees_a_single_missed_sync(lr):
    """The engine is one optimizer update behind the trainer, at a rate of fine-tuning."""
    trial = Trial()
    behind = trial.rows()
    trial.update(behind, lr)
    with pytest.raises(UserError, match="log-probs"):
        trial.update(behind, lr)


def test_the_gate_stops_on_another_temperature():
    trial = Trial()
    rows, fit = trial.rows(), trial.learner.fit
    trial.learner = replace(trial.learner, fit=replace(fit, shape=replace(fit.shape, temperature=0.5)))
    with pytest.raises(UserError, match="log-probs"):
        trial.update(rows)


def test_the_gate_stops_on_nan():
    sums = StepStats()
    sums.compare(torch.tensor([0.0, math.nan]), torch.zeros(2))
    with pytest.raises(UserError, match="nan"):
        check_mismatch(sums, 1e-4)


def test_mismatch_by_hand():
    sums = StepStats()
    sums.compare(torch.tensor([0.5, -1.0]), torch.tensor([0.25, -0.5]))
    sums.compare(torch.tensor([0.0]), torch.tensor([0.0]))
    assert (sums.mismatch / sums.fresh_tokens, sums.mismatch_max, sums.fresh_tokens) == (0.25, 0.5, 3.0)
    metrics = sums.metrics(update_config())
    assert metrics["logprob_mismatch_outside"] == pytest.approx(2 / 3)  # 0.25 and 0.5 are above log 1.25 = 0.223
    assert metrics["token_mult_prob_error"] == pytest.approx((math.exp(0.25) + math.exp(0.5) + 1) / 3)
    check_mismatch(StepStats(), 1e-4)  # nothing fresh, nothing to say


def test_mini_batches_are_whole_groups_each_used_once():
    groups = Trial(updates=4).groups()
    batches = split_updates(groups, 4, 1, seed=1, step=8)
    assert [len(batch) for batch in batches] == [4] * 4
    assert sorted(g.prompt.id for b in batches for g in b) == sorted(g.prompt.id for g in groups)
    assert batches == split_updates(groups, 4, 1, seed=1, step=8)
    assert batches != split_updates(groups, 4, 1, seed=1, step=12)
    assert batches != split_updates(groups, 4, 1, seed=2, step=8)
    assert split_updates(groups, 1, 1, 0, 0) == [groups]


@pytest.mark.parametrize("share_prompts", [True, False])
def test_micro_batches_hold_every_row_once_and_keep_to_the_budget(share_prompts):
    rows = Trial().rows()
    random.Random(0).shuffle(rows)
    for budget in (1, 30, 60, 100, 1000):
        cut = BatchPlan(budget, share_prompts)
        batches = cut.micro_batches(rows)
        for batch in batches:
            assert len(batch) == 1 or model_input(batch, CPU, share_prompts=share_prompts).token_ids.numel() <= budget
        assert sorted(id(row) for batch in batches for row in batch) == sorted(id(row) for row in rows)
    assert len(batches) == 1
    assert cut.micro_batches([]) == []


def test_a_group_that_fits_is_not_cut():
    rows = Trial().rows()
    largest = max(
        model_input(list(group), CPU, share_prompts=True).token_ids.numel() + GROUP
        for _, group in itertools.groupby(rows, key=lambda row: row.prompt_ids)
    )
    for budget in (largest, largest + 20):
        for batch in BatchPlan(budget).micro_batches(rows):
            assert len(batch) % GROUP == 0


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40])
def test_processes_share_the_tokens_evenly_and_siblings_stay_together(size):
    rows = Trial().rows()
    shares = BatchPlan(1000).share(rows, World(0, size))
    assert len(shares) == size
    assert sorted(id(row) for own in shares for row in own) == sorted(id(row) for row in rows)
    tokens = [model_input(own, CPU, share_prompts=True).token_ids.numel() if own else 0 for own in shares]
    longest = max(row.length for row in rows)
    assert max(tokens) <= sum(tokens) / size + 2 * longest  # half a row more at either end, a prompt again
    prompts = [len({row.prompt_ids for row in own}) for own in shares if own]
    assert sum(prompts) <= 4 + size - 1  # no more cuts than processes need


def test_weights_move_by_the_learning_rate_that_is_given():
    """AdamW's first step is lr x sign of the gradient (plus decay): the schedule's rate, not the constructor's."""
    trial = Trial(lr=1.0)
    named = trial.policy.model.named_parameters()
    name, parameter = next((n, p) for n, p in named if n.endswith("down_proj.weight"))
    start = parameter.detach().clone()
    trial.update()
    moved = parameter.detach() - start * (1 - 1e-3 * 0.1)
    assert moved.abs().median().item() == pytest.approx(1e-3, rel=0.05), name
    assert moved.abs().max().item() < 1.1e-3


def test_gradient_clipping_limits_the_norm_and_reports_the_true_one():
    trial = Trial()
    rows = trial.rows()
    exact = math.sqrt(sum(float(g.double().square().sum()) for g in trial.gradient(rows).values()))
    trial.config = update_config(max_grad_norm=exact / 2)
    assert trial.update(rows)["grad_norm"] == pytest.approx(exact, rel=1e-5)
    moment = trial.learner.optimizer.state_dict()["state"]
    clipped = math.sqrt(sum(float((s["exp_avg"] / 0.1).double().square().sum()) for s in moment.values()))
    assert clipped == pytest.approx(exact / 2, rel=1e-3)


def test_saved_and_loaded_policies_are_equal(tmp_path):
    policy = policy_of()
    policy.save(tmp_path / "model")
    policy.save(tmp_path / "model")  # over an existing one
    again = load_policy(str(tmp_path / "model"), RuntimeConfig(device="cpu"))
    assert_equal(dict(again.export()), dict(policy.export()))
    assert again.tokenizer.chat_template == policy.tokenizer.chat_template
    assert again.model.generation_config.eos_token_id == policy.model.generation_config.eos_token_id
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
