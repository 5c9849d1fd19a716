"""Groups -> micro-batches for one optimizer step, with normalisers that do not depend on how it was cut."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from grpo.config.algorithm import LossConfig
from grpo.loss import Normaliser
from grpo.model.packing import ModelInput, make_input
from grpo.system.world import World
from grpo.types import Group, Rollout


@dataclass(frozen=True)
class TrainRow:
    """One sequence to train on: a prompt's ids and one of its rollouts."""

    prompt_ids: tuple[int, ...]
    rollout: Rollout

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.rollout.completion.token_ids)


def rows_of(groups: Sequence[Group], *, drop_truncated: bool = False) -> list[TrainRow]:
    """The sequences of these groups. Rollouts excluded by a failed reward are left out altogether, and with
    `drop_truncated` those cut at the limit as well: neither trained nor counted in a denominator."""
    return [
        TrainRow(group.prompt_ids, r)
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


def normaliser_of(rows: Sequence[TrainRow], max_tokens: int) -> Normaliser:
    by_prompt = tokens_by_prompt(rows)
    return Normaliser(len(rows), sum(by_prompt.values()), max_tokens, len(by_prompt))


def tokens_by_prompt(rows: Sequence[TrainRow]) -> Counter[tuple[int, ...]]:
    """Completion tokens of each prompt; drawn twice in a rollout, it is one prompt."""
    counts: Counter[tuple[int, ...]] = Counter()
    for row in rows:
        counts[row.prompt_ids] += len(row.rollout.completion.token_ids)
    return counts


def contributing(rows: Sequence[TrainRow], loss: LossConfig) -> list[TrainRow]:
    """The rows that can have a gradient: without KL, entropy and teacher in the loss, a zero advantage has none and
    costs no forward."""
    everything = loss.kl_in_loss or loss.entropy_bonus > 0 or loss.distill is not None
    return [row for row in rows if everything or row.rollout.advantage != 0.0]


@dataclass(frozen=True)
class BatchPlan:
    """How rows become micro-batches: at most `tokens` through the model at a time, a prompt once for neighbouring
    siblings (`share_prompts`) or rows padded to the longest."""

    tokens: int
    share_prompts: bool = True

    def share(self, rows: Sequence[TrainRow], world: World) -> list[list[TrainRow]]:
        """The rows of each process: about as many tokens for each, siblings together but where it has to be cut."""
        ordered = _siblings_together(rows)
        costs = self._costs(ordered)
        total, spent = sum(costs), 0
        shares: list[list[TrainRow]] = [[] for _ in range(world.size)]
        for row, cost in zip(ordered, costs, strict=True):
            shares[(2 * spent + cost) * world.size // (2 * total)].append(row)  # by the middle of its tokens
            spent += cost
        return shares

    def micro_batches(self, rows: Sequence[TrainRow]) -> list[list[TrainRow]]:
        """Rows that go through the model together. A group that fits stays whole; of one that does not, each part has
        the prompt again. A row above the budget goes alone."""
        return self._packed(rows) if self.share_prompts else self._padded(rows)

    def _packed(self, rows: Sequence[TrainRow]) -> list[list[TrainRow]]:
        batches: list[list[TrainRow]] = []
        room = 0
        for _, siblings in groupby(_siblings_together(rows), key=attrgetter("prompt_ids")):
            group = list(siblings)
            if sum(self._costs(group)) > room:
                room = 0  # it begins a new one
            prompt = 0
            for row in group:
                alone = row.length - prompt
                if alone > room:
                    batches.append([])
                    alone, room = row.length, self.tokens
                batches[-1].append(row)
                room -= alone
                prompt = len(row.prompt_ids)
        return batches

    def _padded(self, rows: Sequence[TrainRow]) -> list[list[TrainRow]]:
        batches: list[list[TrainRow]] = []
        for row in sorted(rows, key=lambda row: row.length):  # of like length: little is padding
            if not batches or (len(batches[-1]) + 1) * row.length > self.tokens:
                batches.append([])
            batches[-1].append(row)
        return batches

    def _costs(self, rows: Sequence[TrainRow]) -> list[int]:
        """Tokens that each adds when it comes after the one before."""
        costs, before = [], None
        for row in rows:
            shared = self.share_prompts and row.prompt_ids == before
            costs.append(row.length - len(row.prompt_ids) * shared)
            before = row.prompt_ids
        return costs


def _siblings_together(rows: Sequence[TrainRow]) -> list[TrainRow]:
    """Groups in the order in which they first appear."""
    groups: dict[tuple[int, ...], list[TrainRow]] = {}
    for row in rows:
        groups.setdefault(row.prompt_ids, []).append(row)
    return [row for group in groups.values() for row in group]


@dataclass(frozen=True)
class TrainBatch:
    """One micro-batch: B completions of at most C tokens, N in all.

    `mask` is 1.0 on the trained tokens (end token included, nothing after it), completion after completion; what goes
    through the model for them is `rows`, in which no token but trained ones and prompts is seen.
    """

    rows: ModelInput
    mask: Float[Tensor, "B C"]
    advantages: Float[Tensor, " B"]
    versions: Int64[Tensor, " B"]  # of the weights that drew them
    gen_logprobs: Float[Tensor, "B C"]  # log pi_gen; 0 off the mask
    old_logprobs: Float[Tensor, "B C"] | None = None  # log pi_old; None: one update follows, pi_old is pi_theta
    ref_logprobs: Float[Tensor, "B C"] | None = None  # log pi_ref; None when beta = 0
    teacher_logprobs: Float[Tensor, "B C"] | None = None  # log pi_teacher; None without `loss.distill`

    def by_completion(self, values: Shaped[Tensor, " N"]) -> Shaped[Tensor, "B C"]:
        """Values of the trained tokens as [B, C], 0 off the mask."""
        return torch.zeros_like(self.mask, dtype=values.dtype).masked_scatter(self.mask.bool(), values)


def model_input(rows: Sequence[TrainRow], device: torch.device, *, share_prompts: bool) -> ModelInput:
    """What goes through the model to score these rows' completions."""
    sequences = [(row.prompt_ids, row.rollout.completion.token_ids) for row in rows]
    return make_input(sequences, device, share_prompts=share_prompts)


def collate(rows: Sequence[TrainRow], device: torch.device, *, share_prompts: bool = True) -> TrainBatch:
    """Rows as one micro-batch; those of equal prompts stand together if these are to be shared."""
    rollouts = [row.rollout for row in rows]
    completions = [rollout.completion for rollout in rollouts]
    lengths = np.array([len(completion.token_ids) for completion in completions])
    trained = np.arange(lengths.max()) < lengths[:, None]

    def by_completion(values: Sequence[tuple[float, ...]]) -> torch.Tensor:
        table = np.zeros(trained.shape, dtype=np.float32)
        table[trained] = np.fromiter(chain.from_iterable(values), dtype=np.float32, count=lengths.sum())
        return torch.from_numpy(table).to(device)

    old = [rollout.old_logprobs for rollout in rollouts if rollout.old_logprobs is not None]
    ref = [rollout.ref_logprobs for rollout in rollouts if rollout.ref_logprobs is not None]
    teacher = [rollout.teacher_logprobs for rollout in rollouts if rollout.teacher_logprobs is not None]
    return TrainBatch(
        rows=model_input(rows, device, share_prompts=share_prompts),
        mask=torch.from_numpy(trained.astype(np.float32)).to(device),
        advantages=torch.tensor([rollout.advantage for rollout in rollouts], dtype=torch.float32).to(device),
        versions=torch.tensor([completion.version for completion in completions]).to(device),
        gen_logprobs=by_completion([completion.logprobs for completion in completions]),
        old_logprobs=by_completion(old) if old else None,
        ref_logprobs=by_completion(ref) if ref else None,
        teacher_logprobs=by_completion(teacher) if teacher else None,
    )
