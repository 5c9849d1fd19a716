"""Stage 1, cold start: supervised training of the base model on chains of thought in the required format."""

from __future__ import annotations

from typing import Any

from grpo.data.conversations import conversation_rows
from grpo.data.rows import rows_hash
from grpo.supervised.sft import supervised
from stages.recipe.table import StageContext


def run(context: StageContext) -> dict[str, Any]:
    """Leaves model/, metrics.jsonl and data/sft.jsonl."""
    config = context.config.cold_start
    assert config is not None
    rows = conversation_rows(config.data)
    context.write_data("sft", rows)
    numbers = supervised(
        context.init,
        rows,
        config,
        context.folder,
        seed=context.config.seed,
        runtime=context.config.runtime,
        title="cold start",
    )
    return {**numbers, "data_hashes": {"cold_start": rows_hash(rows)}}


if __name__ == "__main__":
    from stages.commands.run import stage_main

    stage_main("cold_start")
