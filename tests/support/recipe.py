"""The whole recipe of configs/tiny.yaml with a few steps a stage."""

from __future__ import annotations

from typing import Any

SHORT = [
    "runtime.threads=1",
    "runtime.device=cpu",
    "base.steps=3",
    "base.pretrain.corpus.kwargs.n=300",
    "base.pretrain.vocab_size=300",  # few tokens: one in a hundred ends even a random completion
    "base.pretrain.hidden_size=32",
    "base.pretrain.intermediate_size=64",
    "base.pretrain.layers=2",
    "base.pretrain.batch_size=16",
    "cold_start.steps=2",
    "cold_start.data.kwargs.n=32",
    "reasoning_rl.steps=2",
    "reasoning_rl.group_size=4",
    "reasoning_rl.prompts_per_step=4",
    "reasoning_rl.sampling.max_tokens=32",
    "reasoning_rl.tasks.arithmetic.data.kwargs.n=32",
    "reasoning_rl.reference_every=1",
    "reasoning_rl.checkpoint.every=1",
    "rejection_sampling.steps=2",
    "rejection_sampling.data.kwargs.n=16",
    "rejection_sampling.general.kwargs.n=32",
    f"rejection_sampling.filters=[{{fn: {__name__}.anything}}]",  # a model of two steps is never right
    "helpfulness_model.steps=2",
    "helpfulness_model.data.kwargs.n=40",
    "safety_model.steps=2",
    "safety_model.data.kwargs.n=40",
    "helpfulness_rl.steps=2",
    "helpfulness_rl.group_size=4",
    "helpfulness_rl.prompts_per_step=4",
    "helpfulness_rl.sampling.max_tokens=32",
    "helpfulness_rl.tasks.arithmetic.data.kwargs.n=32",
    "helpfulness_rl.tasks.general.data.kwargs.n=32",
    "evaluation.math.data.kwargs.n=8",
    "evaluation.math.samples=2",
    "evaluation.math.max_tokens=32",
    "evaluation.math.k=[2]",
    "evaluation.general.data.kwargs.n=8",
    "evaluation.general.max_tokens=32",
]


def anything(completions: list[Any]) -> list[float]:
    """A filter that keeps whatever ended by itself."""
    return [1.0] * len(completions)
