"""What the two reward-model stages share: the section's rows, the training, the hash of the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grpo.data.conversations import Part
from grpo.data.rows import load_rows, rows_hash
from stages.recipe.config import RewardModelConfig
from stages.recipe.table import StageContext


def run_reward_model(
    context: StageContext, config: RewardModelConfig | None, train: Callable[..., dict[str, Any]], part: Part
) -> dict[str, Any]:
    """Leaves model/ (a sequence classifier with one output), metrics.jsonl and data/preferences.jsonl.

    `part`: what of a response the model reads, "answer" or the whole "response".
    """
    assert config is not None
    rows = load_rows(config.data)
    context.write_data("preferences", rows)
    settings = context.config
    numbers = train(context.init, rows, config, context.folder, seed=settings.seed, runtime=settings.runtime, part=part)
    return {**numbers, "data_hashes": {"preferences": rows_hash(rows)}}
