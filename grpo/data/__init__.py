"""Rows -> prompts, conversations -> tokens and masks, golds."""

from grpo.data.prompts import build_prompts

__all__ = ["build_prompts"]
