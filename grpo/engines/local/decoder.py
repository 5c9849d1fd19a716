"""The model's forwards when it samples: prompts packed into one flat row, then one token of every running completion.

Every forward has the shape [1, tokens], so that no padding passes through a linear layer or the head.

Letters: P prompts, R running completions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from grpo.engines.local.attention import PrefillState, StepState, unfit
from grpo.engines.local.cache import LayerCache

Ints = npt.NDArray[np.int64]


class Decoder:
    """The model, with the prompts it holds and the completions it decodes.

    Prompts are lines 0..P-1 and completions slots 0..R-1: what is new comes last, and `keep` closes the gaps.
    """

    def __init__(self, model: Any, slots: int, columns: int):
        """At most so many completions at a time, of at most so many tokens."""
        self.model, self.slots, self.columns = model, slots, columns
        self.device = next(model.parameters()).device
        self.layers: dict[int, LayerCache] = {}
        self.prompt_lengths: Ints = np.zeros(0, np.int64)
        self.prompt_of: Ints = np.zeros(0, np.int64)  # of each slot: the line of its prompt
        self.fed: Ints = np.zeros(0, np.int64)  # of each slot: completion tokens in the cache

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "P V"]:
        """Take in prompts; the logits of their first completion token. A `UserError` if a layer attends elsewhere."""
        lengths = np.array([len(ids) for ids in prompts])
        columns = np.arange(lengths.max())
        real = columns < lengths[:, None]
        behind = lengths.cumsum()  # of each prompt: the place after its last token
        padded = np.where(real, columns + (behind - lengths)[:, None], 0)
        state = PrefillState(self.layers, len(self.prompt_lengths), self._tensor(padded), self._tensor(real))
        ids = self._tensor(np.concatenate([np.asarray(ids, np.int64) for ids in prompts]))
        positions = self._tensor(np.broadcast_to(columns, real.shape)[real])
        logits = self._forward(ids, positions, self._tensor(behind - 1), state)
        if len(self.layers) != self.model.config.get_text_config().num_hidden_layers:
            raise unfit(self.model)
        self.prompt_lengths = np.concatenate([self.prompt_lengths, lengths])
        return logits

    def admit(self, prompts: Ints) -> None:
        """Start completions of the prompts on these lines, in the next free slots."""
        self.prompt_of = np.concatenate([self.prompt_of, prompts])
        self.fed = np.concatenate([self.fed, np.zeros_like(prompts)])

    def step(self, tokens: Int64[Tensor, " R"], advancing: npt.NDArray[np.bool_]) -> Float[Tensor, "R V"]:
        """Feed each completion its next token; the logits of the one after. One that is not `advancing` is computed
        to no purpose, and its next token takes the same column."""
        prompts, lengths = len(self.prompt_lengths), self.prompt_lengths[self.prompt_of]
        sibling, lanes = _lanes(self.prompt_of, prompts)
        # One transfer for all of it.
        columns, prompt_of, prompt_length, number = self._tensor(np.stack([self.fed, self.prompt_of, lengths, sibling]))
        sizes, room = (prompts, int(self.prompt_lengths.max()), int(self.fed.max()) + 1), (self.slots, self.columns)
        state = StepState(self.layers, room, columns, prompt_of, prompt_length, number, self._tensor(lanes), sizes)
        self.fed = self.fed + advancing
        return self._forward(tokens, prompt_length + columns, 0, state)

    def keep(self, slots: Ints, lines: Ints) -> None:
        """Go on with these completions and prompts only, which are renumbered in the order given by `survivors`."""
        numbers = np.full(len(self.prompt_lengths), -1)
        numbers[lines] = np.arange(len(lines))
        self._move("completions", slots, int(self.fed[slots].max(initial=0)))
        self._move("prompts", lines, int(self.prompt_lengths[lines].max(initial=0)))
        self.prompt_of, self.fed = numbers[self.prompt_of[slots]], self.fed[slots]
        self.prompt_lengths = self.prompt_lengths[lines]

    def _move(self, part: str, chosen: Ints, columns: int) -> None:
        moved = np.flatnonzero(chosen != np.arange(len(chosen)))
        if len(moved) and columns:
            source, target = self._tensor(chosen[moved]), self._tensor(moved)
            for cache in self.layers.values():
                getattr(cache, part).move(source, target, columns)

    def _forward(self, ids: Tensor, positions: Tensor, keep: int | Tensor, state: PrefillState | StepState) -> Tensor:
        row, places = ids.unsqueeze(0), positions.unsqueeze(0)
        output = self.model(input_ids=row, position_ids=places, use_cache=False, logits_to_keep=keep, decoding=state)
        return output.logits[0].float()

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)


def survivors(alive: npt.NDArray[np.bool_]) -> Ints:
    """The numbers that stay, ordered so that few move: the last ones go to the places of those that leave."""
    count = int(alive.sum())
    order = np.arange(count)
    order[~alive[:count]] = count + np.flatnonzero(alive[count:])
    return order


def _lanes(prompt_of: Ints, prompts: int) -> tuple[Ints, Ints]:
    """Of each completion its number among those of its prompt; and of each (prompt, number) the completion, or 0."""
    counts = np.bincount(prompt_of, minlength=prompts)
    order = np.argsort(prompt_of, kind="stable")
    number = np.empty_like(prompt_of)
    number[order] = np.arange(len(order)) - np.repeat(counts.cumsum() - counts, counts)
    lanes = np.zeros((prompts, int(counts.max())), np.int64)
    lanes[prompt_of, number] = np.arange(len(prompt_of))
    return number, lanes.ravel()
