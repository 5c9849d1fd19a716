"""Is the final answer right?"""

from rewards.accuracy.reward import accuracy_reward, extract_answer, gold_is_parseable, grade

__all__ = ["accuracy_reward", "extract_answer", "gold_is_parseable", "grade"]
