"""A model behind an endpoint judges."""

from rewards.judge.reward import Judge

__all__ = ["Judge"]
