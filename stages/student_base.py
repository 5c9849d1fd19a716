"""A student's base model: another one than the recipe's, existing or trained from scratch, as stage 0 does."""

from stages.base import run as run
from stages.commands.run import stage_main

if __name__ == "__main__":
    stage_main("student_base")
