"""R1-Zero: reasoning RL with rule rewards straight from the base model, without any SFT."""

from functools import partial

from stages.commands.run import stage_main
from stages.recipe.training import train_rl

run = partial(train_rl, label="R1-Zero")

if __name__ == "__main__":
    stage_main("r1_zero")
