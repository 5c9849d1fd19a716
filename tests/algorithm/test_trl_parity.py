"""Loss, gradient and advantages equal those of TRL 1.16's GRPOTrainer on the same tensors, by calling its own methods.

Ours goes through the whole path that training takes (rows -> right-padded micro-batches -> log-probs -> loss ->
backward, three micro-batches), TRL's through `_compute_loss` on one left-padded batch.
"""

import copy
import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from grpo.advantages import assign_advantages
from grpo.config.algorithm import AdvantageConfig
from grpo.config.training import RLConfig
from grpo.learner.batching import TrainRow, rows_of
from grpo.learner.learner import Learner
from grpo.learner.stats import StepStats
from grpo.model.fit import fit_of
from grpo.types import Completion, Rollout
from support import runs
from support.groups import group_of, prompt_of
from support.models import EOS, PAD, VOCAB_SIZE, make_model, make_tokenizer, model_logprobs
from support.train import backward

pytest.importorskip("trl", minversion="1.16")

MAX_TOKENS = 9
SIZE = 4  # rollouts of a group


def trl_trainer(folder: Any, model: Any, **settings: Any) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "per_device_train_batch_size": 3 * SIZE,
        "num_generations": SIZE,
        "max_completion_length": MAX_TOKENS,
        "use_bias_correction_kl": False,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_dropout": True,
    }
    rewards = settings.pop("reward_funcs", [lambda completions, **_: [0.0] * len(completions)])
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=rewards,
        args=GRPOConfig(**arguments | settings),
        train_dataset=Dataset.from_list([{"prompt": "1+1="}] * 3 * SIZE),
        processing_class=make_tokenizer(None),
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()  # TRL divides by the accumulation steps only then; these models have no dropout
    return trainer


def sample_rows(seed: int, model: Any, temperature: float, *, off_policy: bool) -> list[TrainRow]:
    """12 rows in 3 groups, of different lengths. Old and reference log-probs are near the model's own, but not equal:
    some ratios fall outside the clip range on either side."""
    rng = random.Random(seed)
    rows = []
    for index in range(3):
        prompt = prompt_of([rng.randrange(9, VOCAB_SIZE) for _ in range(3 + 2 * index)], f"p{index}")
        for _ in range(SIZE):
            ids = [rng.randrange(9, VOCAB_SIZE) for _ in range(rng.randrange(0, MAX_TOKENS))] + [EOS]
            exact = model_logprobs(model, prompt.token_ids, ids, temperature).tolist()
            rollout = Rollout(
                Completion(tuple(ids), tuple(exact), "stop", ""),
                reward=1.0,
                advantage=rng.choice([-1, 1]) * rng.random(),
            )
            old = tuple(p + rng.gauss(0, 0.3) for p in exact) if off_policy else None
            ref = tuple(p + rng.gauss(0, 0.5) for p in exact)
            if old is not None:  # the engine is the old policy
                rollout = replace(rollout, completion=replace(rollout.completion, logprobs=old))
            rows.append(TrainRow(prompt.token_ids, replace(rollout, old_logprobs=old, ref_logprobs=ref)))
    rows[1] = replace(rows[1], rollout=replace(rows[1].rollout, advantage=0.0))
    return rows


def trl_inputs(rows: list[TrainRow], beta: float) -> dict[str, Any]:
    width = max(len(row.prompt_ids) for row in rows)
    length = max(len(row.rollout.completion.token_ids) for row in rows)
    completions = [row.rollout.completion for row in rows]

    def right(values: list[Any], fill: float = 0.0) -> torch.Tensor:
        return torch.tensor([[*v, *[fill] * (length - len(v))] for v in values])

    inputs = {
        "prompt_ids": torch.tensor([[PAD] * (width - len(r.prompt_ids)) + list(r.prompt_ids) for r in rows]),
        "prompt_mask": torch.tensor([[0] * (width - len(r.prompt_ids)) + [1] * len(r.prompt_ids) for r in rows]),
        "completion_ids": right([c.token_ids for c in completions], PAD).long(),
        "completion_mask": right([[1] * len(c.token_ids) for c in completions]).long(),
        "advantages": torch.tensor([row.rollout.advantage for row in rows]),
        "num_items_in_batch": torch.tensor(sum(len(c.token_ids) for c in completions)),
    }
    if rows[0].rollout.old_logprobs is not None:
        inputs["old_per_token_logps"] = right([row.rollout.old_logprobs for row in rows])
    if beta:
        inputs["ref_per_token_logps"] = right([row.rollout.ref_logprobs for row in rows])
    return inputs


class PlainAccelerator:
    """What `accumulate_gradients` needs of accelerate, so that its global state is left to TRL here."""

    device = torch.device("cpu")
    mixed_precision = "no"

    @staticmethod
    def backward(loss: torch.Tensor) -> None:
        loss.backward()


def learner_of(model: Any, temperature: float = 1.0) -> Learner:
    return Learner(model, torch.optim.SGD(model.parameters()), PlainAccelerator, fit_of(model, temperature), 60)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


GSPO = {"ratio": "sequence", "clip_low": 0.03, "clip_high": 0.04}
VARIANTS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "dapo": {"aggregation": "token", "clip_high": 0.28},
    "dr_grpo": {"aggregation": "constant"},
    "gspo": GSPO,
    "cispo": {"clip": "cispo", "aggregation": "token", "clip_low": None, "clip_high": 0.2},
    "asymmetric": {"clip_low": 0.05, "clip_high": 0.4},
    "r1": {"clip_low": 10.0, "clip_high": 10.0},
    "dual": {"dual_clip": 1.3},
    "dapo-dual": {"aggregation": "token", "dual_clip": 1.3},
    "dr_grpo-dual": {"aggregation": "constant", "dual_clip": 1.3},
    "gspo-dual": GSPO | {"dual_clip": 1.06},
    "off-policy-mask": {"off_policy_mask": 0.1},
    "entropy": {"entropy_bonus": 0.02},
}
KL: dict[str, dict[str, Any]] = {
    "no-kl": {},
    "k3": {"beta": 0.04},
    "k3-weighted": {"beta": 0.04, "kl": {"weighted": True}},
}
NAMES = {
    "clip_low": "epsilon",
    "clip_high": "epsilon_high",
    "ratio": "importance_sampling_level",
    "dual_clip": "delta",  # a dual clip when it is above 1 + epsilon_high
    "off_policy_mask": "off_policy_mask_threshold",
    "entropy_bonus": "entropy_coef",
}


def in_trl(loss: dict[str, Any]) -> dict[str, Any]:
    """The same choices in TRL's words."""
    if loss.get("clip") == "cispo":  # its epsilon_high is the bound itself then, and there is no lower one
        return {"loss_type": "cispo", "epsilon_high": 1 + loss["clip_high"]}
    kind = {"sequence": "grpo", "token": "dapo", "constant": "dr_grpo"}[loss.get("aggregation", "sequence")]
    return {"loss_type": kind} | {NAMES[name]: value for name, value in loss.items() if name in NAMES}


def config_of(loss: dict[str, Any], **settings: Any) -> RLConfig:
    return runs.config_of(group_size=SIZE, sampling={"max_tokens": MAX_TOKENS}, loss=loss, **settings)


@pytest.mark.parametrize("off_policy", [True, False], ids=["off-policy", "on-policy"])
@pytest.mark.parametrize("kl", list(KL))
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_loss_and_gradient_equal_trl(variant, kl, off_policy, tmp_path):
    temperature = 0.7 if variant == "asymmetric" else 1.0
    model = make_model("qwen2", seed=5).double()  # but for the norms, which compute in float32 in any case
    config = config_of(VARIANTS[variant] | KL[kl])
    beta = config.loss.beta
    rows = sample_rows(11, model, temperature, off_policy=off_policy)

    theirs = copy.deepcopy(model)
    settings = in_trl(VARIANTS[variant]) | {"use_bias_correction_kl": config.loss.kl.weighted}
    trainer = trl_trainer(tmp_path, theirs, beta=0.0, temperature=temperature, **settings)
    trainer.beta = beta  # set afterwards, or TRL would look for the reference on the hub; its log-probs are given
    expected = trainer._compute_loss(trainer.model, trl_inputs(rows, beta))
    expected.backward()

    learner = learner_of(model, temperature)
    ours = backward(learner, rows if beta else [without_reference(row) for row in rows], config, step=1)

    assert ours.loss == pytest.approx(expected.item(), rel=2e-6, abs=1e-8)
    pairs = [
        (name, own.grad, other.grad)
        for (name, own), other in zip(model.named_parameters(), trainer.model.parameters(), strict=True)
    ]
    whole = [torch.cat([pair[side].flatten() for pair in pairs]) for side in (1, 2)]
    assert relative(*whole) < 1e-6
    for name, own, other in pairs:  # sums over another cut and padding: rounding is larger where terms cancel
        assert relative(own, other) < 3e-6, name
    if off_policy:
        check_metrics(ours, trainer._metrics["train"], config, rows)


def check_metrics(ours: StepStats, theirs: dict[str, list[float]], config: RLConfig, rows: list[TrainRow]) -> None:
    """The clip was in play on both sides, and what is reported of it is the same."""
    everything = sum(len(r.rollout.completion.token_ids) for r in rows)
    loss = config.loss
    if loss.clip == "ppo" and loss.ratio == "token" and loss.dual_clip is None:
        if loss.clip_high < 1:
            assert theirs["clip_ratio/low_mean"][-1] > 0
            assert theirs["clip_ratio/high_mean"][-1] > 0
        if loss.kl_in_loss:  # all rows are seen
            assert ours.clipped / everything == pytest.approx(theirs["clip_ratio/region_mean"][-1])
    if loss.kl_in_loss:
        assert ours.entropy / everything == pytest.approx(theirs["entropy"][-1], rel=1e-5)
        if not loss.kl.weighted:  # TRL reports the weighted one then
            assert ours.kl / everything == pytest.approx(theirs["kl"][-1], rel=1e-5)
    if loss.off_policy_mask is not None:
        assert 0 < ours.dropped < len(rows)


def without_reference(row: TrainRow) -> TrainRow:
    return replace(row, rollout=replace(row.rollout, ref_logprobs=None))


def test_each_prompt_is_one_vote_of_trls_token_mean(tmp_path):
    """TRL has no such aggregation: its mean over all tokens of a batch (`bnpo`), of each prompt by itself, averaged."""
    model = make_model("qwen2", seed=5).double()
    config = config_of({"aggregation": "prompt", "clip_high": 0.28})
    rows = [without_reference(row) for row in sample_rows(11, model, 1.0, off_policy=True)]
    trainer = trl_trainer(tmp_path, copy.deepcopy(model), beta=0.0, loss_type="bnpo", epsilon_high=0.28)
    groups = [rows[start : start + SIZE] for start in range(0, len(rows), SIZE)]
    expected = sum(trainer._compute_loss(trainer.model, trl_inputs(group, 0.0)) for group in groups) / len(groups)
    expected.backward()
    learner = learner_of(model)
    ours = backward(learner, rows[::-1], config, step=1)  # siblings apart from each other in three micro-batches
    assert ours.loss == pytest.approx(expected.item(), rel=2e-6, abs=1e-8)
    whole = [torch.cat([p.grad.flatten() for p in m.parameters()]) for m in (model, trainer.model)]
    assert relative(*whole) < 1e-6


CORRECTIONS: dict[str, dict[str, Any]] = {
    "token-clip": {"level": "token", "mode": "clip", "high": 1.2},
    "token-mask": {"level": "token", "mode": "mask", "low": 0.8, "high": 1.2},
    "sequence-clip": {"level": "sequence", "mode": "clip", "high": 1.2},
    "sequence-mask": {"level": "sequence", "mode": "mask", "high": 1.2},
}


@pytest.mark.parametrize("kind", list(CORRECTIONS))
def test_corrected_loss_equals_trl(kind, tmp_path):
    """The engine's log-probs differ from pi_old. TRL computes its weights inside the generation step, so they are
    computed here with its formula (exp of the difference, a sum over tokens for `sequence`) and given to its loss."""
    model = make_model("qwen2", seed=5).double()
    correction = CORRECTIONS[kind]
    config = config_of({}, correction=correction)
    rng = random.Random(3)
    rows = []
    for row in sample_rows(11, model, 1.0, off_policy=True):
        old = row.rollout.old_logprobs
        gen = tuple(p + rng.gauss(0, 0.15) for p in old)
        completion = replace(row.rollout.completion, logprobs=gen)
        rows.append(without_reference(replace(row, rollout=replace(row.rollout, completion=completion))))

    trainer = trl_trainer(tmp_path, copy.deepcopy(model), beta=0.0, loss_type="grpo")
    inputs = trl_inputs(rows, 0.0)
    length = inputs["completion_ids"].shape[1]
    gen = torch.tensor(
        [[*r.rollout.completion.logprobs, *[0.0] * (length - r.length + len(r.prompt_ids))] for r in rows]
    )
    difference = (inputs["old_per_token_logps"] - gen) * inputs["completion_mask"]
    if correction["level"] == "sequence":
        difference = difference.sum(-1, keepdim=True)
    weights = difference.exp()
    low, high = correction.get("low", 0.0), correction["high"]
    if correction["mode"] == "clip":
        weights = weights.clamp(min=low, max=high)
    else:
        weights = weights.masked_fill((weights < low) | (weights > high), 0.0)
    inputs["importance_sampling_ratio"] = weights
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
    expected = trainer._compute_loss(trainer.model, inputs)
    expected.backward()

    learner = learner_of(model)
    ours = backward(learner, rows, config, step=1)
    assert 0 < ours.corrected < ours.tokens
    assert ours.loss == pytest.approx(expected.item(), rel=2e-6, abs=1e-8)
    whole = [torch.cat([p.grad.flatten() for p in m.parameters()]) for m in (model, trainer.model)]
    assert relative(*whole) < 1e-6


def trl_advantages(folder: Any, rewards: torch.Tensor, **settings: Any) -> list[float]:
    """TRL's `_generate_and_score_completions`, its sampling and its reward functions replaced by given values."""
    count = len(rewards)
    functions = [lambda completions, **_: [0.0] * len(completions)] * rewards.shape[1]
    trainer = trl_trainer(folder, make_model("qwen2"), beta=0.0, reward_funcs=functions, **settings)
    # prompt ids, completion ids, tool mask, completions, log-probs, extra fields, images, tool images
    trainer._generate = lambda _: ([[9, 10]] * count, [[11, EOS]] * count, None, ["a"] * count, None, {}, None, None)
    trainer._calculate_rewards = lambda *_: rewards
    return trainer._generate_and_score_completions([{"prompt": "1+1="}] * count)["advantages"].tolist()


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_equal_trl(scale, tmp_path):
    nan = float("nan")
    table = [[1.0, 0.0, 0.25, 1.0], [0.0, 0.5, nan, 0.125], [1.0, 1.0, 1.0, 1.0]]
    theirs = trl_advantages(tmp_path, torch.tensor(table).view(-1, 1), scale_rewards=scale)
    groups = [group_of(prompt_of([9], f"p{i}"), [None if v != v else v for v in line]) for i, line in enumerate(table)]
    ours = [r.advantage for g in assign_advantages(groups, AdvantageConfig(scale=scale)) for r in g.rollouts]
    assert ours == pytest.approx(theirs, rel=2e-6, abs=1e-7)


def test_normalise_then_sum_equals_trl(tmp_path):
    """TRL normalises the sum once more over the batch (GDPO); that is done to ours before they are compared."""
    nan = float("nan")
    table = torch.tensor(
        [[[1.0, 0.2], [0.0, 0.9], [0.25, 0.3], [1.0, nan]], [[0.0, 1.0], [0.5, 0.0], [0.5, 0.5], [1, 1]]]
    )
    settings = {"multi_objective_aggregation": "normalize_then_sum", "reward_weights": [1.0, 0.5]}
    theirs = trl_advantages(tmp_path, table.view(8, 2), per_device_train_batch_size=8, **settings)
    groups = []
    for lines in table.tolist():
        group = group_of(prompt_of([9]), [0.0] * 4)
        named = [{"a": a, "b": None if b != b else b} for a, b in lines]
        rollouts = tuple(replace(r, rewards=v) for r, v in zip(group.rollouts, named, strict=True))
        groups.append(replace(group, rollouts=rollouts))
    config = AdvantageConfig(combine="normalise_then_sum")
    found = assign_advantages(groups, config, {"default": {"a": 1.0, "b": 0.5}})
    ours = torch.tensor([r.advantage for g in found for r in g.rollouts])
    whitened = (ours - ours.mean()) / (ours.std() + 1e-4)
    assert whitened.tolist() == pytest.approx(theirs, rel=1e-5, abs=1e-6)


def test_rows_of_an_excluded_rollout_are_left_out():
    """TRL keeps an unscorable row, with advantage 0, in its denominators; here it is no row at all."""
    assert len(rows_of([group_of(prompt_of([9]), [1.0, None, 0.0])])) == 2
