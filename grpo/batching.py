"""Groups -> padded micro-batches for one optimizer step, with normalisers that do not depend on how it was cut."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from grpo.loss import Normaliser
from grpo.types import Group, Rollout, TrainBatch


@dataclass(frozen=True)
class Row:
    """One sequence to train on: a prompt's ids and one of its rollouts, with what earlier forwards found for it."""

    prompt_ids: tuple[int, ...]
    rollout: Rollout
    old_logprobs: tuple[float, ...] | None = None  # of the completion's tokens
    ref_logprobs: tuple[float, ...] | None = None

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.rollout.completion.token_ids)


def rows_of(groups: Sequence[Group]) -> list[Row]:
    """The sequences of these groups; rollouts excluded by a failed reward are left out altogether."""
    return [Row(group.prompt_ids, r) for group in groups for r in group.rollouts if r.reward is not None]


def split_updates(groups: list[Group], updates: int, seed: int, step: int) -> list[list[Group]]:
    """The mini-batches of a rollout: whole groups, shuffled, equally many in each (R1 shuffles single outputs; whole
    groups keep siblings together, so that their prompt can be shared)."""
    if updates == 1:
        return [groups]
    shuffled = list(groups)
    random.Random(f"{seed}-{step}").shuffle(shuffled)
    size = len(shuffled) // updates
    return [shuffled[i * size : (i + 1) * size] for i in range(updates)]


def normaliser_of(rows: Sequence[Row], max_tokens: int) -> Normaliser:
    return Normaliser(len(rows), sum(len(row.rollout.completion.token_ids) for row in rows), max_tokens)


def contributing(rows: Sequence[Row], beta: float) -> list[Row]:
    """The rows that can have a gradient: with beta = 0, a zero advantage has none and costs no forward."""
    return [row for row in rows if beta > 0 or row.rollout.advantage != 0.0]


def micro_batches(rows: Sequence[Row], size: int) -> list[list[Row]]:
    """At most `size` rows each, rows of like length together, so that little is padding."""
    ordered = sorted(rows, key=lambda row: row.length)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def collate(rows: Sequence[Row], device: torch.device) -> TrainBatch:
    """Rows as one right-padded batch."""
    width = max(row.length for row in rows)

    def padded(values: list[list[float]], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([v + [0] * (width - len(v)) for v in values], dtype=dtype).to(device)

    def per_token(values: list[Sequence[float]]) -> torch.Tensor:
        return padded([[0.0] * len(r.prompt_ids) + list(v) for r, v in zip(rows, values, strict=True)], torch.float32)

    completions = [row.rollout.completion for row in rows]
    old = [row.old_logprobs for row in rows if row.old_logprobs is not None]
    ref = [row.ref_logprobs for row in rows if row.ref_logprobs is not None]
    return TrainBatch(
        token_ids=padded([[*r.prompt_ids, *c.token_ids] for r, c in zip(rows, completions, strict=True)], torch.long),
        completion_mask=per_token([[1.0] * len(c.token_ids) for c in completions]),
        advantages=torch.tensor([row.rollout.advantage for row in rows], dtype=torch.float32).to(device),
        gen_logprobs=per_token([c.logprobs for c in completions]),
        old_logprobs=per_token(list(old)) if old else None,
        ref_logprobs=per_token(list(ref)) if ref else None,
    )
