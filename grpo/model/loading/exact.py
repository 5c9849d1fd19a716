"""Which of transformers' attentions computes a model as its authors wrote it."""

from __future__ import annotations

from typing import Any


def with_whole_attention(model: Any) -> Any:
    """The model, its attention plain ("eager") where SDPA, which transformers takes, would leave something out: the
    softcap of Gemma 2 and its kin. tests/matrix compares every architecture with its plain attention."""
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")
    return model
