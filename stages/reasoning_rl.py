"""Stage 2, reasoning RL (R1-Dev2): GRPO with rule rewards for accuracy, format and language consistency."""

from functools import partial

from stages.commands.run import stage_main
from stages.recipe.training import train_rl

run = partial(train_rl, label="reasoning RL")

if __name__ == "__main__":
    stage_main("reasoning_rl")
