"""The safety model of stage 4: pointwise, on whole responses (reasoning included), started from the stage-3 model."""

from functools import partial

from grpo.supervised.reward_model import train_pointwise
from stages.commands.run import stage_main
from stages.recipe.training import train_reward_model

run = partial(train_reward_model, train=train_pointwise, part="response")

if __name__ == "__main__":
    stage_main("safety_model")
