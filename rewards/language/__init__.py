"""R1's language consistency."""

from rewards.language.reward import chain_of_thought, consistency, count_words, language_consistency, scripts_of

__all__ = ["chain_of_thought", "consistency", "count_words", "language_consistency", "scripts_of"]
