"""Is the final answer right?"""

from rewards.accuracy.reward import accuracy_reward

__all__ = ["accuracy_reward"]
