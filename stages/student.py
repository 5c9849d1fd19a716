"""A student (R1's distilled models): SFT of another model, of any tokenizer and chat template, on stage 3's data."""

from __future__ import annotations

from typing import Any

from grpo.data.layouts import conversation_rows
from grpo.data.rows import read_jsonl, rows_hash
from grpo.model.loading.tokenizer import load_tokenizer
from stages.commands.run import stage_main
from stages.recipe.config import StudentConfig
from stages.recipe.retold import retold
from stages.recipe.table import StageContext
from stages.recipe.training import train_sft


def run(context: StageContext) -> dict[str, Any]:
    """Leaves model/, metrics.jsonl and data/sft.jsonl."""
    config: StudentConfig = context.section
    if config.data is not None:
        rows = conversation_rows(config.data)
    else:
        stage = context.models["rejection_sampling"].parent
        written, own = (load_tokenizer(model) for model in (str(stage / "model"), context.init))
        rows = [
            retold(row, written, own, f"stage 3's data, row {number}")
            for number, row in enumerate(read_jsonl(stage / "data" / "sft.jsonl"))
        ]
    rows = context.write_data("sft", rows)
    numbers = train_sft(context, context.init, rows, "student")
    return {**numbers, "data_hashes": {"student": rows_hash(rows)}}


if __name__ == "__main__":
    stage_main("student")
