"""One update of a tiny model on really sampled groups, and what it must leave alone."""

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from grpo.advantages import assign_advantages
from grpo.config.algorithm import AdvantageConfig
from grpo.config.engine import RuntimeConfig
from grpo.config.training import RLConfig
from grpo.engines.local.engine import LocalEngine
from grpo.learner.batching import TrainRow, rows_of
from grpo.learner.learner import Learner
from grpo.learner.logprobs import with_logprobs
from grpo.learner.make import make_learner
from grpo.learner.update import update
from grpo.model.policy import Policy
from grpo.model.reference import Reference
from grpo.types import Group, Sampling
from support.groups import random_prompts
from support.models import policy_of
from support.train import backward


def assert_same_metrics(ours: dict[str, float | None], theirs: dict[str, float | None]) -> None:
    """Equal but for rounding; the mismatch of the engine's log-probs is nothing but rounding here."""
    for name, value in theirs.items():
        if name in ("executed_tokens", "update_flops"):  # what it cost depends on how it was cut
            continue
        limit = 1e-5 if name.startswith("logprob_mismatch") else 2e-7
        assert ours[name] == (None if value is None else pytest.approx(value, rel=1e-5, abs=limit)), name


GROUP, MAX_TOKENS = 4, 12
Judge = Callable[[int, int], float | None]


def update_config(
    *, updates: int = 1, micro: int = 60, lr: float = 1e-2, max_grad_norm: float = 1e9, **loss: Any
) -> RLConfig:
    return RLConfig.model_validate(
        {
            "steps": 4,
            "group_size": GROUP,
            "prompts_per_step": 4,
            "rollout_prompts": 4 * updates,
            "sampling": {"max_tokens": MAX_TOKENS, "temperature": 0.9},
            "optimizer": {"lr": lr, "weight_decay": 0.1, "max_grad_norm": max_grad_norm},
            "loss": loss,
            "micro_batch_tokens": micro,
        }
    )


def setup(config: RLConfig, **runtime: Any) -> tuple[Policy, Learner]:
    policy = policy_of()
    return policy, make_learner(policy, config, RuntimeConfig(device="cpu", **runtime))


def rollout_groups(policy: Policy, config: RLConfig, reward: Judge) -> list[Group]:
    """Really sampled groups, judged by `reward(prompt number, sibling)`."""
    prompts = random_prompts(config.rollout_prompts or 4, seed=8, low=1, high=15)
    groups = LocalEngine(policy.model, policy.tokenizer, 512).generate(
        prompts, Sampling(GROUP, MAX_TOKENS, config.sampling.temperature), seed=3, step=0
    )
    judged = [
        replace(g, rollouts=tuple(replace(r, reward=reward(i, j)) for j, r in enumerate(g.rollouts)))
        for i, g in enumerate(groups)
    ]
    return assign_advantages(judged, AdvantageConfig())


def varied(prompt: int, sibling: int) -> float:
    return random.Random(10 * prompt + sibling).random()


def only_the_first(prompt: int, sibling: int) -> float:
    return varied(prompt, sibling) if prompt == 0 else 1.0


def constant(prompt: int, sibling: int) -> float:
    return 0.1


class Trial:
    """A tiny policy with its learner under one config."""

    def __init__(self, config: RLConfig | None = None, **settings: Any) -> None:
        self.config = config or update_config(**settings)
        self.policy, self.learner = setup(self.config)

    def groups(self, reward: Judge = varied) -> list[Group]:
        return rollout_groups(self.policy, self.config, reward)

    def rows(self, reward: Judge = varied) -> list[TrainRow]:
        return rows_of(self.groups(reward))

    def scored(self, reference: Reference | None, groups: list[Group]) -> list[TrainRow]:
        """With the log-probs of pi_old and the reference that the config asks for."""
        return rows_of(with_logprobs(self.learner, reference, groups, self.config))

    def gradient(self, rows: list[TrainRow], step: int = 0) -> dict[str, torch.Tensor]:
        backward(self.learner, rows, self.config, step=step)
        return gradients(self.policy.model)

    def update(self, rows: list[TrainRow] | None = None, lr: float = 1e-3, **options: Any) -> dict[str, Any]:
        """One, on rewards that vary unless the rows are given."""
        return update(self.learner, self.rows() if rows is None else rows, self.config, lr, **options)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def assert_same_gradient(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], limit: float = 1e-5) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert float((ours[name] - expected).norm() / expected.norm()) <= limit, name


def snapshot(learner: Learner) -> tuple[dict[str, torch.Tensor], Any]:
    return (
        {name: tensor.clone() for name, tensor in learner.model.state_dict().items()},
        copy.deepcopy(learner.optimizer.state_dict()["state"]),
    )


def with_old(row: TrainRow, old: tuple[float, ...]) -> TrainRow:
    """These as the log-probs of pi_old, and of the engine too."""
    completion = replace(row.rollout.completion, logprobs=old)
    return replace(row, rollout=replace(row.rollout, completion=completion, old_logprobs=old))


def assert_untouched(learner: Learner, before: tuple[dict[str, torch.Tensor], Any]) -> None:
    for name, tensor in learner.model.state_dict().items():
        assert torch.equal(tensor, before[0][name]), name
    state = learner.optimizer.state_dict()["state"]
    assert state.keys() == before[1].keys()
    for key, values in state.items():
        for name, value in values.items():
            assert torch.equal(value, before[1][key][name]), name
