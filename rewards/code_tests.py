"""The documented home of `rewards.code.tests` and `rewards.code.sets`."""

from rewards.code.sets import apps_row, code_contests_row, humaneval_row, livecodebench_row, mbpp_row
from rewards.code.tests import CodeTests, read_tests

__all__ = [
    "CodeTests", "apps_row", "code_contests_row", "humaneval_row", "livecodebench_row", "mbpp_row", "read_tests",
]  # fmt: skip
