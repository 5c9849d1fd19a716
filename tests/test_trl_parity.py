"""Loss, gradient and advantages equal those of TRL 1.16's GRPOTrainer on the same tensors, by calling its own methods.

Ours goes through the whole path that training takes (rows -> right-padded micro-batches -> log-probs -> loss ->
backward, three micro-batches), TRL's through `_compute_loss` on one left-padded batch.
"""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import EOS, PAD, VOCAB_SIZE, group_of, make_model, make_tokenizer, model_logprobs, prompt_of

from grpo.advantages import assign_advantages
from grpo.batching import Row, rows_of
from grpo.config import AdvantageConfig, LossConfig
from grpo.types import Completion, Rollout
from grpo.update import Learner, accumulate_gradients

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
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(**arguments | settings),
        train_dataset=Dataset.from_list([{"prompt": "1+1="}] * 3 * SIZE),
        processing_class=make_tokenizer(None),
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()  # TRL divides by the accumulation steps only then; these models have no dropout
    return trainer


def sample_rows(seed: int, model: Any, temperature: float, *, off_policy: bool) -> list[Row]:
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
            rows.append(Row(prompt.token_ids, rollout, old, tuple(p + rng.gauss(0, 0.5) for p in exact)))
    rows[1] = replace(rows[1], rollout=replace(rows[1].rollout, advantage=0.0))
    return rows


def trl_inputs(rows: list[Row], beta: float) -> dict[str, Any]:
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
    if rows[0].old_logprobs is not None:
        inputs["old_per_token_logps"] = right([row.old_logprobs for row in rows])
    if beta:
        inputs["ref_per_token_logps"] = right([row.ref_logprobs for row in rows])
    return inputs


class PlainAccelerator:
    """What `accumulate_gradients` needs of accelerate, so that its global state is left to TRL here."""

    device = torch.device("cpu")

    @staticmethod
    def backward(loss: torch.Tensor) -> None:
        loss.backward()


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


# ours, theirs
VARIANTS = {
    "grpo": (LossConfig(), {"loss_type": "grpo"}),
    "dapo": (LossConfig(aggregation="token", clip_high=0.28), {"loss_type": "dapo", "epsilon_high": 0.28}),
    "dr_grpo": (LossConfig(aggregation="constant"), {"loss_type": "dr_grpo"}),
    "asymmetric": (
        LossConfig(clip_low=0.05, clip_high=0.4),
        {"loss_type": "grpo", "epsilon": 0.05, "epsilon_high": 0.4},
    ),
    "r1": (LossConfig(clip_low=10, clip_high=10), {"loss_type": "grpo", "epsilon": 10.0, "epsilon_high": 10.0}),
}


@pytest.mark.parametrize("off_policy", [True, False], ids=["off-policy", "on-policy"])
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_loss_and_gradient_equal_trl(variant, beta, off_policy, tmp_path):
    temperature = 0.7 if variant == "asymmetric" else 1.0
    model = make_model("qwen2", seed=5)
    config, settings = VARIANTS[variant]
    config = config.model_copy(update={"beta": beta})
    rows = sample_rows(11, model, temperature, off_policy=off_policy)

    theirs = copy.deepcopy(model)
    trainer = trl_trainer(tmp_path, theirs, beta=0.0, temperature=temperature, **settings)
    trainer.beta = beta  # set afterwards, or TRL would look for the reference on the hub; its log-probs are given
    expected = trainer._compute_loss(trainer.model, trl_inputs(rows, beta))
    expected.backward()

    learner = Learner(model, torch.optim.SGD(model.parameters()), PlainAccelerator, temperature, micro_batch_size=5)
    ours = accumulate_gradients(
        learner, rows if beta else [replace(r, ref_logprobs=None) for r in rows], config, MAX_TOKENS
    )

    assert ours.loss == pytest.approx(expected.item(), rel=2e-6, abs=1e-8)
    pairs = [
        (name, own.grad, other.grad)
        for (name, own), other in zip(model.named_parameters(), trainer.model.parameters(), strict=True)
    ]
    whole = [torch.cat([pair[side].flatten() for pair in pairs]) for side in (1, 2)]
    assert relative(*whole) < 2e-6
    for name, own, other in pairs:  # sums over another cut and padding: rounding is larger where terms cancel
        assert relative(own, other) < 1e-5, name
    if off_policy and variant != "r1":  # both sides of the clip were in play
        metrics = trainer._metrics["train"]
        assert metrics["clip_ratio/low_mean"][-1] > 0
        assert metrics["clip_ratio/high_mean"][-1] > 0
        everything = sum(len(r.rollout.completion.token_ids) for r in rows)
        assert ours.clipped / everything == pytest.approx(metrics["clip_ratio/region_mean"][-1])
        if beta:
            assert ours.kl / everything == pytest.approx(metrics["kl"][-1], rel=1e-5)
            assert ours.entropy / everything == pytest.approx(metrics["entropy"][-1], rel=1e-5)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_equal_trl(scale, tmp_path):
    """TRL's `_generate_and_score_completions` with its sampling and its reward functions replaced by given values."""
    nan = float("nan")
    table = [[1.0, 0.0, 0.25, 1.0], [0.0, 0.5, nan, 0.125], [1.0, 1.0, 1.0, 1.0]]
    trainer = trl_trainer(tmp_path, make_model("qwen2"), beta=0.0, scale_rewards=scale)
    flat = [value for line in table for value in line]
    # prompt ids, completion ids, tool mask, completions, log-probs, extra fields, images, tool images
    count = len(flat)
    trainer._generate = lambda _: ([[9, 10]] * count, [[11, EOS]] * count, None, ["a"] * count, None, {}, None, None)
    trainer._calculate_rewards = lambda *_: torch.tensor(flat).unsqueeze(1)
    theirs = trainer._generate_and_score_completions([{"prompt": "1+1="}] * len(flat))["advantages"]

    groups = [group_of(prompt_of([9], f"p{i}"), [None if v != v else v for v in line]) for i, line in enumerate(table)]
    ours = [r.advantage for g in assign_advantages(groups, AdvantageConfig(scale=scale)) for r in g.rollouts]
    assert ours == pytest.approx(theirs.tolist(), rel=2e-6, abs=1e-7)


def test_rows_of_an_excluded_rollout_are_left_out():
    """TRL keeps an unscorable row, with advantage 0, in its denominators; here it is no row at all."""
    assert len(rows_of([group_of(prompt_of([9]), [1.0, None, 0.0])])) == 2
