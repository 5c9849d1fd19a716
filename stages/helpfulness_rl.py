"""Stage 4: RL on reasoning (rules) and, in the last steps, on general prompts (preference models)."""

from __future__ import annotations

from typing import Any

from stages.recipe.rl import run_rl
from stages.recipe.table import StageContext


def run(context: StageContext) -> dict[str, Any]:
    """GRPO from the model this stage is given."""
    section = context.config.helpfulness_rl
    assert section is not None  # the runner runs no stage without a section
    return run_rl(context, section, "helpfulness RL")


if __name__ == "__main__":
    from stages.commands.run import stage_main

    stage_main("helpfulness_rl")
