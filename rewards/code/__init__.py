"""Programs against tests, in a sandbox."""

from rewards.code.reward import code_reward

__all__ = ["code_reward"]
