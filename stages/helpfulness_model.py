"""The helpfulness model of stage 4: pairwise, on final answers only, started from the stage-3 model."""

from functools import partial

from grpo.supervised.reward_model import train_pairwise
from stages.commands.run import stage_main
from stages.recipe.training import train_reward_model

run = partial(train_reward_model, train=train_pairwise, part="answer")

if __name__ == "__main__":
    stage_main("helpfulness_model")
