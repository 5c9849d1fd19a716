"""Stage 1, cold start (R1-Dev1): SFT of the base model on chains of thought in the required format."""

from __future__ import annotations

from typing import Any

from grpo.data.layouts import conversation_rows
from grpo.data.rows import rows_hash
from stages.commands.run import stage_main
from stages.recipe.table import StageContext
from stages.recipe.training import train_sft


def run(context: StageContext) -> dict[str, Any]:
    """Leaves model/, metrics.jsonl and data/sft.jsonl."""
    rows = conversation_rows(context.section.data)
    rows = context.write_data("sft", rows)
    numbers = train_sft(context, context.init, rows, "cold start")
    return {**numbers, "data_hashes": {"cold_start": rows_hash(rows)}}


if __name__ == "__main__":
    stage_main("cold_start")
