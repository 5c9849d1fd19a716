"""Which engine samples: the factory behind `engine.kind`."""

from __future__ import annotations

from typing import Any

from grpo.config import EngineConfig
from grpo.engine_local import LocalEngine
from grpo.types import RolloutEngine


def make_engine(config: EngineConfig, model: Any, tokenizer: Any, *, shared: bool = True) -> RolloutEngine:
    """The engine asked for, sampling from `model`: the policy's own (`shared`), or a copy that `sync` fills."""
    return LocalEngine(model, tokenizer, config.max_rows, shared=shared)
