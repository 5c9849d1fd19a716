"""Stage 1, cold start: supervised training of the base model on chains of thought in the required format."""

from __future__ import annotations

from typing import Any

from grpo.config.sections import DataConfig
from grpo.data.prompts import Row, load_rows, rows_hash
from grpo.supervised.sft import supervised
from stages.recipe.stages import StageContext, stage_main


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


def conversation_rows(data: DataConfig) -> list[Row]:
    """Rows to train on; `data.system` is put before conversations that have no system message."""
    rows = load_rows(data)
    return [_with_system(row, data.system) for row in rows] if data.system else rows


def _with_system(row: Row, system: str) -> Row:
    from grpo.data.conversations import read_messages

    messages = read_messages(row, "data")
    if messages[0]["role"] == "system":
        return row
    return {**row, "messages": [{"role": "system", "content": system}, *messages]}


if __name__ == "__main__":
    stage_main("cold_start")
