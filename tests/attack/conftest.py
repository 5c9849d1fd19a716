"""Fixtures of the tests of attacks and bad luck."""

from support.pipeline import pipeline, recipe  # noqa: F401
