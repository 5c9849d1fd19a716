"""Stage 4, RL for all scenarios (R1): reasoning under rules and, in the last steps, general prompts and preferences."""

from functools import partial

from stages.commands.run import stage_main
from stages.recipe.training import train_rl

run = partial(train_rl, label="helpfulness RL")

if __name__ == "__main__":
    stage_main("helpfulness_rl")
