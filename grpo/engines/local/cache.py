"""Keys and values of what is being decoded: each prompt's once for all its siblings, each completion's in its slot.

Letters: B prompts, T prompt columns, R running completions, H key/value heads, D head size.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

FIRST_COLUMNS = 64  # of a completion's slot; doubled when the longest one fills them


class Lines:
    """Keys and values [lines, H, columns, D], allocated ahead and written in place; the lines in use are the first.

    Zeros, not empty memory: what is masked is multiplied by 0, and 0 times a stray NaN is NaN.
    """

    def __init__(self) -> None:
        self.keys = self.values = torch.zeros(0, 0, 0, 0)

    def reserve(self, lines: int, columns: int, like: tuple[Tensor, Tensor]) -> None:
        """Room for so many, with the heads, head size, dtype and device of these keys and values [.., H, .., D]."""
        have = self.keys.shape
        if lines <= have[0] and columns <= have[2]:
            return
        lines, columns = max(lines, have[0]), max(columns, have[2])
        self.keys = _enlarged(self.keys, lines, columns, like[0])
        self.values = _enlarged(self.values, lines, columns, like[1])

    def used(self, lines: int, columns: int) -> tuple[Float[Tensor, "LH C D"], Float[Tensor, "LH C Dv"]]:
        """Keys and values of the first columns of the first lines, head by head."""
        return self.keys[:lines, :, :columns].flatten(0, 1), self.values[:lines, :, :columns].flatten(0, 1)

    def move(self, source: Int64[Tensor, " M"], target: Int64[Tensor, " M"], columns: int) -> None:
        """Copy the first columns of some lines to other ones."""
        for buffer in (self.keys, self.values):
            used = buffer[:, :, :columns]
            used.index_copy_(0, target, used.index_select(0, source))


def _enlarged(buffer: Tensor, lines: int, columns: int, like: Tensor) -> Tensor:
    larger = like.new_zeros(lines, like.shape[1], columns, like.shape[3])
    if buffer.numel():
        larger[: buffer.shape[0], :, : buffer.shape[2]] = buffer
    return larger


class LayerCache:
    """One attention layer's keys and values."""

    def __init__(self) -> None:
        self.prompts = Lines()
        self.completions = Lines()

    def add_prompts(self, start: int, keys: Float[Tensor, "B H T D"], values: Float[Tensor, "B H T Dv"]) -> None:
        """Write prompts, right-padded, on the lines from `start` on."""
        end, width = start + keys.shape[0], keys.shape[2]
        have = self.prompts.keys.shape[0]
        self.prompts.reserve(end if end <= have else max(end, have + have // 4), width, (keys, values))
        self.prompts.keys[start:end, :, :width] = keys
        self.prompts.values[start:end, :, :width] = values

    def reserve_tokens(self, slots: int, width: int, most: int, keys: Tensor, values: Tensor) -> None:
        """Room for `width` columns in so many slots, for tokens like these [.., H, D]; no completion needs `most`+1."""
        have = self.completions.keys.shape[2]
        if width > have:
            room = min(max(FIRST_COLUMNS, 2 * have, width), most)
            self.completions.reserve(slots, room, (keys.unsqueeze(2), values.unsqueeze(2)))

    def add_tokens(
        self, places: Int64[Tensor, " RH"], keys: Float[Tensor, "R H D"], values: Float[Tensor, "R H Dv"]
    ) -> None:
        """Write one token to each of the first R slots; `places` counts rows of D numbers from the buffer's start."""
        self.completions.keys.flatten(0, 2).index_copy_(0, places, keys.flatten(0, 1))
        self.completions.values.flatten(0, 2).index_copy_(0, places, values.flatten(0, 1))
