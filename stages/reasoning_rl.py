"""Stage 2: reasoning RL with rule rewards (accuracy, format, language)."""

from __future__ import annotations

from typing import Any

from stages.recipe.rl import run_rl
from stages.recipe.table import StageContext


def run(context: StageContext) -> dict[str, Any]:
    """GRPO from the model this stage is given."""
    section = context.config.reasoning_rl
    assert section is not None  # the runner runs no stage without a section
    return run_rl(context, section, "reasoning RL")


if __name__ == "__main__":
    from stages.commands.run import stage_main

    stage_main("reasoning_rl")
