"""The documented home of `rewards.code.tests`."""

from rewards.code.tests import CodeTests, humaneval_row, mbpp_row, read_tests

__all__ = ["CodeTests", "humaneval_row", "mbpp_row", "read_tests"]
