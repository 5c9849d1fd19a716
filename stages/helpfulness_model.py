"""The helpfulness model of stage 4: pairwise, on final answers only, started from the stage-3 model."""

from functools import partial

from stages.commands.run import stage_main
from stages.recipe.training import train_reward

run = partial(train_reward, kind="pairwise", part="answer", title="helpfulness model")

if __name__ == "__main__":
    stage_main("helpfulness_model")
