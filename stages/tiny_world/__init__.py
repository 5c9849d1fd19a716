"""The tiny world: everything synthetic that the default run trains on.

Bilingual two-digit arithmetic with worked or hasty chains of thought, and a few general tasks with harmful requests
among them. All data functions are pure and deterministic in their seed.
"""

from .arithmetic_tasks import arithmetic, cold_start, is_held_out, problem_keys
from .documents import ZERO_TEMPLATE, corpus
from .feedback import preferences, safety_labels
from .general_tasks import general, general_sft, is_held_out_content
from .oracles import general_oracle, helpfulness_oracle, over_refusal_oracle, safety_oracle
from .tokenizer import build_tokenizer, model_config

__all__ = [
    "ZERO_TEMPLATE", "arithmetic", "build_tokenizer", "cold_start", "corpus", "general", "general_oracle",
    "general_sft", "helpfulness_oracle", "is_held_out", "is_held_out_content", "model_config", "over_refusal_oracle",
    "preferences", "problem_keys", "safety_labels", "safety_oracle",
]  # fmt: skip
