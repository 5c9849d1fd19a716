"""RL of the student: with `loss.distill` it is on-policy distillation, the student samples and a teacher scores."""

from functools import partial

from stages.commands.run import stage_main
from stages.recipe.training import train_rl

run = partial(train_rl, label="student")

if __name__ == "__main__":
    stage_main("student_rl")
