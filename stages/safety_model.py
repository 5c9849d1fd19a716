"""The safety model of stage 4: pointwise, on whole responses (reasoning included), started from the stage-3 model."""

from __future__ import annotations

from typing import Any

from stages.commands.run import stage_main
from stages.recipe.table import StageContext
from stages.recipe.training import train_reward


def run(context: StageContext) -> dict[str, Any]:
    """Leaves model/, metrics.jsonl and data/preferences.jsonl."""
    from grpo.supervised.reward_model import Pointwise

    return train_reward(context, Pointwise, part="response", title="safety model")


if __name__ == "__main__":
    stage_main("safety_model")
