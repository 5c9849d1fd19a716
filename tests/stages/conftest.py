"""Fixtures of the tests of stages."""

from support.pipeline import pipeline, recipe  # noqa: F401
