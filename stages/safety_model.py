"""The safety model: pointwise, on whole responses (reasoning included), started from the stage-3 model."""

from __future__ import annotations

from typing import Any

from grpo.supervised.reward_model import train_pointwise
from stages.recipe.reward_stage import run_reward_model
from stages.recipe.table import StageContext


def run(context: StageContext) -> dict[str, Any]:
    return run_reward_model(context, context.config.safety_model, train_pointwise, "response")


if __name__ == "__main__":
    from stages.commands.run import stage_main

    stage_main("safety_model")
