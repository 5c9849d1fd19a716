"""The safety model of stage 4: pointwise, on whole responses (reasoning included), started from the stage-3 model."""

from functools import partial

from stages.commands.run import stage_main
from stages.recipe.training import train_reward

run = partial(train_reward, kind="pointwise", part="response", title="safety model")

if __name__ == "__main__":
    stage_main("safety_model")
