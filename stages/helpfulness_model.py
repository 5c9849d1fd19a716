"""The helpfulness model: pairwise, on final answers only, started from the stage-3 model."""

from __future__ import annotations

from typing import Any

from grpo.data import load_rows, rows_hash
from grpo.reward_model import train_pairwise
from stages.stage import StageContext, stage_main


def run(context: StageContext) -> dict[str, Any]:
    """Leaves model/ (a sequence classifier with one output), metrics.jsonl and data/preferences.jsonl."""
    config = context.config.helpfulness_model
    assert config is not None
    rows = load_rows(config.data)
    numbers = train_pairwise(
        context.init,
        rows,
        config,
        context.folder,
        seed=context.config.seed,
        runtime=context.config.runtime,
        part="answer",
    )
    return {**numbers, "data_hashes": {"preferences": rows_hash(rows)}}


if __name__ == "__main__":
    stage_main("helpfulness_model")
