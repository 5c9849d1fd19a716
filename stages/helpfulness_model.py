"""The helpfulness model of stage 4: pairwise, on final answers only, started from the stage-3 model."""

from __future__ import annotations

from typing import Any

from stages.commands.run import stage_main
from stages.recipe.table import StageContext
from stages.recipe.training import train_reward


def run(context: StageContext) -> dict[str, Any]:
    """Leaves model/, metrics.jsonl and data/preferences.jsonl."""
    from grpo.supervised.reward_model import Pairwise

    return train_reward(context, Pairwise, part="answer", title="helpfulness model")


if __name__ == "__main__":
    stage_main("helpfulness_model")
