"""A key/value cache with room to grow, for transformers models: no concatenation per token, rows can be retired."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class RoomyLayer(CacheLayerMixin):
    """Keys and values [rows, heads, capacity, head_dim] of which the first `length` columns are in use."""

    is_sliding = False  # all keys are kept; the model's own mask applies a window, if it has one

    def __init__(self, room: int):
        super().__init__()
        self.room = room  # columns to have free when the buffer is (re)allocated
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = self._buffer(key_states[..., :0, :], key_states.shape[-2] + self.room)
        self.values = self._buffer(value_states[..., :0, :], value_states.shape[-2] + self.room)
        self.is_initialized = True

    @staticmethod
    def _buffer(used: torch.Tensor, capacity: int) -> torch.Tensor:
        buffer = used.new_empty((*used.shape[:2], capacity, used.shape[-1]))
        buffer[:, :, : used.shape[-2]] = used
        return buffer

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[-2]
        if end > self.keys.shape[-2]:
            capacity = max(end + self.room, 2 * self.length)
            self.keys = self._buffer(self.keys[:, :, : self.length], capacity)
            self.values = self._buffer(self.values[:, :, : self.length], capacity)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def take_rows(self, rows: torch.Tensor) -> None:
        """Keep (or repeat) the rows at these indices; each row's used columns move along."""
        capacity = self.keys.shape[-2]
        self.keys = self._buffer(self.keys[:, :, : self.length].index_select(0, rows), capacity)
        self.values = self._buffer(self.values[:, :, : self.length].index_select(0, rows), capacity)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1


class RoomyCache(Cache):
    """One `RoomyLayer` per attention layer."""

    def __init__(self, layers: int, room: int):
        super().__init__(layers=[RoomyLayer(room) for _ in range(layers)])

    def take_rows(self, rows: torch.Tensor) -> None:
        for layer in self.layers:
            layer.take_rows(rows)
