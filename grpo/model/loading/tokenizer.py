"""The tokenizer of a model, and the tokens that end a completion."""

from __future__ import annotations

from typing import Any

from grpo.errors import UserError
from grpo.model.loading.weights import loading


def load_tokenizer(model: str) -> Any:
    """The model's tokenizer. A pad token equal to an end token is never used in a mask, so it needs no repair.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    with loading(model, "no tokenizer can be loaded"):
        return AutoTokenizer.from_pretrained(model)


def end_token_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every token that ends a completion: all of the generation config's, and the tokenizer's own.

    Raises:
        UserError: there is none.
    """
    configured = model.generation_config.eos_token_id
    ids = [] if configured is None else configured if isinstance(configured, list) else [configured]
    if tokenizer.eos_token_id is not None:
        ids = [*ids, tokenizer.eos_token_id]
    if not ids:
        raise UserError("the model has no end token: set eos_token_id in its generation_config.json")
    return tuple(dict.fromkeys(int(token) for token in ids))
