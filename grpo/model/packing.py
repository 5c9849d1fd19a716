"""What goes through the model: token rows without waste, and where attention has to see them apart.

A group's prompt is written once and each sibling's completion after it, all groups of a micro-batch in one flat row,
prompts first: only attention knows that a completion continues its own prompt (arXiv 2506.05433 has the idea). The last
token of a completion predicts nothing that is trained and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

Sequences = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]  # (prompt ids, completion ids)
Stretches = tuple[np.ndarray, np.ndarray]  # first positions, lengths


@dataclass(frozen=True)
class Bucket:
    """Stretches of like length, as a padded batch of indices into the flat row. Padding repeats a stretch's last token.

    `flat[i]` is the position in the row of what lies at `padded[i]` of the flattened [n, L] batch; `padded` is None
    where nothing is.
    """

    index: Int64[Tensor, "n L"]
    flat: Int64[Tensor, " M"]
    padded: Int64[Tensor, " M"] | None

    @classmethod
    def of(cls, stretches: Stretches, device: torch.device) -> Bucket:
        """All these stretches, whose indices lie on `device`."""
        start, length = (values[:, None] for values in stretches)
        offset = np.arange(length.max())
        index = torch.from_numpy(start + np.minimum(offset, length - 1)).to(device)
        real = torch.from_numpy((offset < length).ravel().nonzero()[0]).to(device)
        return cls(index, index.flatten()[real], None if len(real) == index.numel() else real)


@dataclass(frozen=True)
class Segments:
    """The stretches of a flat row: prompts, then completions group by group. n prompts, m completions, T tokens."""

    prompts: Stretches  # [n] each
    completions: Stretches  # [m] each; completions of no token in the row are not listed
    group: np.ndarray  # [m]: the prompt that a completion continues
    device: torch.device

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest prompt with its completion."""
        return int(max(self.prompts[1].max(), (self.prompts[1][self.group] + self.completions[1]).max(initial=0)))

    @cached_property
    def own(self) -> list[Bucket]:
        """Every stretch, for attention to itself."""
        starts, lengths = (np.concatenate(both) for both in zip(self.prompts, self.completions, strict=True))
        return [Bucket.of((starts[chosen], lengths[chosen]), self.device) for chosen in _alike(lengths)]

    @cached_property
    def across(self) -> list[tuple[Bucket, Bucket, Bool[Tensor, "n 1 1 K"] | None]]:
        """All completion tokens of each prompt, that prompt, and which keys are real: for attention to the prompt."""
        groups, first = np.unique(self.group, return_index=True)
        if not len(groups):
            return []
        starts = self.completions[0][first]
        lengths = np.add.reduceat(self.completions[1], first)
        prompts = self.prompts[0][groups], self.prompts[1][groups]
        parts = []
        for chosen in _alike(prompts[1], lengths):
            keys = prompts[1][chosen]
            real = None
            if keys.min() < keys.max():
                real = torch.from_numpy(np.arange(keys.max()) < keys[:, None]).to(self.device)[:, None, None]
            queries = Bucket.of((starts[chosen], lengths[chosen]), self.device)
            parts.append((queries, Bucket.of((prompts[0][chosen], keys), self.device), real))
        return parts

    @cached_property
    def labels(self) -> tuple[Int64[Tensor, " T"], Int64[Tensor, " T"]]:
        """Of each token: the number of its stretch, and that of the prompt it continues (its own, in a prompt)."""
        count = len(self.prompts[1])
        lengths = np.concatenate([self.prompts[1], self.completions[1]])
        stretch = np.repeat(np.arange(len(lengths)), lengths)
        prompt = np.repeat(np.concatenate([np.arange(count), self.group]), lengths)
        return torch.from_numpy(stretch).to(self.device), torch.from_numpy(prompt).to(self.device)

    @cached_property
    def places(self) -> Int64[Tensor, " T"]:
        """The position of each token in its own sequence."""
        (_, prompts), (_, completions) = self.prompts, self.completions
        inside = _within(completions) + np.repeat(prompts[self.group], completions)
        return torch.from_numpy(np.concatenate([_within(prompts), inside])).to(self.device)

    @cached_property
    def tokens_by_prompt(self) -> list[Int64[Tensor, " t"]]:
        """The positions in the row of each prompt with all that continues it."""
        prompt = self.labels[1]
        return [(prompt == number).nonzero().flatten() for number in range(len(self.prompts[1]))]

    @cached_property
    def block_masks(self) -> dict[int | None, Any]:
        """FlexAttention's masks, by window."""
        return {}


def _alike(*lengths: np.ndarray) -> list[np.ndarray]:
    """Places of like length (within a factor of the root of two; up to 16 tokens they are all alike)."""
    keys = np.stack([np.ceil(2 * np.log2(np.maximum(values, 16))) for values in lengths])
    _, which = np.unique(keys, axis=1, return_inverse=True)
    return [np.flatnonzero(which == bucket) for bucket in range(which.max() + 1)]


@dataclass(frozen=True)
class ModelInput:
    """Rows for the model, and which of its states predict the trained tokens. R rows of T tokens, N trained tokens."""

    token_ids: Int64[Tensor, "R T"]
    positions: Int64[Tensor, "R T"] | None  # None: 0, 1, ... in each row
    predictors: Int64[Tensor, " N"]  # index into the flattened rows, completion after completion
    targets: Int64[Tensor, " N"]
    segments: Segments | None  # None: a row is one sequence, padded on the right, where causal attention ignores it


def make_input(sequences: Sequences, device: torch.device, *, share_prompts: bool) -> ModelInput:
    """Prompts and completions as rows. With `share_prompts` neighbours of equal prompts have it once."""
    ids, predictors, stretches = _packed(sequences) if share_prompts else _padded(sequences)
    targets = _ids([completion for _, completion in sequences])
    token_ids, before, trained = (torch.from_numpy(array).to(device) for array in (ids, predictors, targets))
    segments = None if stretches is None else Segments(*stretches, device)
    return ModelInput(token_ids, None if segments is None else segments.places[None], before, trained, segments)


Rows = tuple[np.ndarray, np.ndarray, tuple[Stretches, Stretches, np.ndarray] | None]  # token ids, predictors, segments


def _packed(sequences: Sequences) -> Rows:
    prompts: list[tuple[int, ...]] = []
    group = []
    for prompt, _ in sequences:
        if not prompts or prompts[-1] != prompt:
            prompts.append(prompt)
        group.append(len(prompts) - 1)
    groups = np.array(group)
    prompt_lengths = np.array([len(prompt) for prompt in prompts])
    lengths = np.array([len(completion) for _, completion in sequences])
    inside = np.maximum(lengths - 1, 0)  # all but the last token
    prompt_starts = _starts(prompt_lengths)
    starts = prompt_lengths.sum() + _starts(inside)
    # The first token of a completion is predicted by the prompt's last, each other one by the one before it.
    steps = _within(lengths)
    before = np.repeat(starts, lengths) + steps - 1
    predictors = np.where(steps == 0, np.repeat((prompt_starts + prompt_lengths - 1)[groups], lengths), before)
    ids = _ids([*prompts, *(completion[:-1] for _, completion in sequences)])
    there = inside > 0
    stretches = (prompt_starts, prompt_lengths), (starts[there], inside[there]), groups[there]
    return ids[None], predictors, stretches


def _padded(sequences: Sequences) -> Rows:
    whole = [prompt + completion[:-1] for prompt, completion in sequences]
    lengths = np.array([len(ids) for ids in whole])
    ids = np.zeros((len(whole), lengths.max()), dtype=np.int64)
    ids[np.arange(lengths.max()) < lengths[:, None]] = _ids(whole)
    trained = np.array([len(completion) for _, completion in sequences])
    first = np.arange(len(whole)) * lengths.max() + np.array([len(prompt) for prompt, _ in sequences]) - 1
    return ids, np.repeat(first, trained) + _within(trained), None


def _ids(lists: Sequence[tuple[int, ...]]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(lists), dtype=np.int64, count=sum(map(len, lists)))


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.cumsum(lengths) - lengths


def _within(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... of each stretch, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(_starts(lengths), lengths)
