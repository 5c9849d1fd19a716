"""R1's language consistency."""

from rewards.language.reward import language_consistency

__all__ = ["language_consistency"]
