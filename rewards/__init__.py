"""Rule and model rewards: plain functions that the core calls by TRL's convention and never imports."""

from rewards.loader import load_reward, load_rewards

__all__ = ["load_reward", "load_rewards"]
