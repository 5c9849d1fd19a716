"""What an engine that keeps weights of its own is told of the model it serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from grpo.config.algorithm import LoraConfig


@dataclass(frozen=True)
class ServedModel:
    """The model that an engine with weights of its own samples from."""

    name: str  # folder or hub name of the weights it starts with
    tokenizer: Any
    end_ids: tuple[int, ...]
    longest: int  # tokens of the longest prompt and completion together
    device: str
    dtype: str  # of the weights it samples with, as runtime.dtype says
    lora: LoraConfig | None = None
