"""R1-Zero: reasoning RL straight from the base model, without any SFT."""

from __future__ import annotations

from typing import Any

from stages.recipe.rl import run_rl
from stages.recipe.table import StageContext


def run(context: StageContext) -> dict[str, Any]:
    """GRPO from the model this stage is given."""
    section = context.config.r1_zero
    assert section is not None  # the runner runs no stage without a section
    return run_rl(context, section, "R1-Zero")


if __name__ == "__main__":
    from stages.commands.run import stage_main

    stage_main("r1_zero")
