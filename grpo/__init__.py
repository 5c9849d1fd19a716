"""GRPO training and evaluation of language models. The four-stage recipe lives in `stages`, the rewards in `rewards`.

>>> import grpo
>>> result = grpo.train(config, rewards=[my_function], dataset=rows)   # doctest: +SKIP
>>> grpo.evaluate(result.model, "test.jsonl")["pass@1"]                # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo.api import evaluate, train
    from grpo.config.training import TrainConfig
    from grpo.errors import UserError

__all__ = ["TrainConfig", "UserError", "evaluate", "train"]
__version__ = "0.1.0"

_HOME = {"train": "grpo.api", "evaluate": "grpo.api", "TrainConfig": "grpo.config.training", "UserError": "grpo.errors"}


def __getattr__(name: str) -> Any:
    """Loaded on first use: importing torch takes seconds, and `grpo --help` needs none of it."""
    if name not in _HOME:
        raise AttributeError(f"module 'grpo' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
