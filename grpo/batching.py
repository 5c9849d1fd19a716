"""Groups -> padded micro-batches for one optimizer step, with normalisers that do not depend on how it was cut."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from grpo.algorithm import LossConfig
from grpo.loss import Normaliser
from grpo.parallel import World
from grpo.types import Group, Rollout


@dataclass(frozen=True)
class Row:
    """One sequence to train on: a prompt's ids and one of its rollouts."""

    prompt_ids: tuple[int, ...]
    rollout: Rollout

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.rollout.completion.token_ids)


def rows_of(groups: Sequence[Group], *, drop_truncated: bool = False) -> list[Row]:
    """The sequences of these groups. Rollouts excluded by a failed reward are left out altogether, and with
    `drop_truncated` those cut at the limit as well: neither trained nor counted in a denominator."""
    return [
        Row(group.prompt_ids, r)
        for group in groups
        for r in group.rollouts
        if r.reward is not None and not (drop_truncated and r.completion.finish_reason == "length")
    ]


def split_updates(groups: list[Group], mini_batches: int, epochs: int, seed: int, step: int) -> list[list[Group]]:
    """The groups of each update of a rollout: `epochs` passes over it, each in `mini_batches` parts of whole groups,
    shuffled anew (R1 shuffles single outputs; whole groups keep siblings together, so that their prompt can be
    shared)."""
    if mini_batches == 1:
        return [groups] * epochs
    size = len(groups) // mini_batches
    updates = []
    for epoch in range(epochs):
        shuffled = list(groups)
        random.Random(f"{seed}-{step}-{epoch}").shuffle(shuffled)
        updates += [shuffled[i * size : (i + 1) * size] for i in range(mini_batches)]
    return updates


def normaliser_of(rows: Sequence[Row], max_tokens: int) -> Normaliser:
    return Normaliser(len(rows), sum(len(row.rollout.completion.token_ids) for row in rows), max_tokens)


def contributing(rows: Sequence[Row], loss: LossConfig) -> list[Row]:
    """The rows that can have a gradient: without KL and entropy in the loss, a zero advantage has none and costs no
    forward."""
    everything = loss.kl_in_loss or loss.entropy_bonus > 0
    return [row for row in rows if everything or row.rollout.advantage != 0.0]


def share(rows: Sequence[Row], world: World) -> list[Row]:
    """This process's rows: every n-th by length, so that all processes have about as much to do."""
    return sorted(rows, key=lambda row: row.length)[world.rank :: world.size]


def micro_batches(rows: Sequence[Row], size: int) -> list[list[Row]]:
    """At most `size` rows each, rows of like length together, so that little is padding."""
    ordered = sorted(rows, key=lambda row: row.length)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


@dataclass(frozen=True)
class TrainBatch:
    """One padded micro-batch. B rows, T tokens; each row is prompt + completion, right-padded.

    `completion_mask` is 1.0 on the tokens that are trained (end token included, nothing after it). Per-token tensors
    are aligned with `token_ids`: entry t speaks of the token at t.
    """

    token_ids: Int64[Tensor, "B T"]
    completion_mask: Float[Tensor, "B T"]
    advantages: Float[Tensor, " B"]
    gen_logprobs: Float[Tensor, "B T"]  # log pi_gen; 0 off the mask
    old_logprobs: Float[Tensor, "B T"] | None = None  # log pi_old; None: one update follows, pi_old is pi_theta
    ref_logprobs: Float[Tensor, "B T"] | None = None  # log pi_ref; None when beta = 0


def collate(rows: Sequence[Row], device: torch.device) -> TrainBatch:
    """Rows as one right-padded batch."""
    width = max(row.length for row in rows)

    def padded(values: list[list[int]] | list[list[float]], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([v + [0] * (width - len(v)) for v in values], dtype=dtype).to(device)

    def per_token(values: list[Sequence[float]]) -> torch.Tensor:
        return padded([[0.0] * len(r.prompt_ids) + list(v) for r, v in zip(rows, values, strict=True)], torch.float32)

    completions = [row.rollout.completion for row in rows]
    old = [row.rollout.old_logprobs for row in rows if row.rollout.old_logprobs is not None]
    ref = [row.rollout.ref_logprobs for row in rows if row.rollout.ref_logprobs is not None]
    return TrainBatch(
        token_ids=padded([[*r.prompt_ids, *c.token_ids] for r, c in zip(rows, completions, strict=True)], torch.long),
        completion_mask=per_token([[1.0] * len(c.token_ids) for c in completions]),
        advantages=torch.tensor([row.rollout.advantage for row in rows], dtype=torch.float32).to(device),
        gen_logprobs=per_token([c.logprobs for c in completions]),
        old_logprobs=per_token(list(old)) if old else None,
        ref_logprobs=per_token(list(ref)) if ref else None,
    )
