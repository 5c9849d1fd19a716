"""The safety model: pointwise, on whole responses (reasoning included), started from the stage-3 model."""

from __future__ import annotations

from typing import Any

from grpo.data import load_rows, rows_hash
from grpo.reward_model import train_pointwise
from stages.stage import StageContext, stage_main


def run(context: StageContext) -> dict[str, Any]:
    """Leaves model/ (a sequence classifier with one output), metrics.jsonl and data/preferences.jsonl."""
    config = context.config.safety_model
    assert config is not None
    rows = load_rows(config.data)
    numbers = train_pointwise(
        context.init,
        rows,
        config,
        context.folder,
        seed=context.config.seed,
        runtime=context.config.runtime,
        part="response",
    )
    return {**numbers, "data_hashes": {"safety_labels": rows_hash(rows)}}


if __name__ == "__main__":
    stage_main("safety_model")
