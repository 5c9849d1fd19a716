"""The helpfulness model: pairwise, on final answers only, started from the stage-3 model."""

from __future__ import annotations

from typing import Any

from grpo.supervised.reward_model import train_pairwise
from stages.recipe.reward_stage import run_reward_model
from stages.recipe.table import StageContext


def run(context: StageContext) -> dict[str, Any]:
    return run_reward_model(context, context.config.helpfulness_model, train_pairwise, "answer")


if __name__ == "__main__":
    from stages.commands.run import stage_main

    stage_main("helpfulness_model")
