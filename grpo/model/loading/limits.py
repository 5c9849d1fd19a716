"""How long a sequence a model computes rightly, and which tokens it has."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from grpo.errors import UserError

log = logging.getLogger("grpo")

_TABLE = re.compile(r"wpe|position")
_OFFSET = 4  # rows of such a table that are no positions, at most
SPECIAL = ("eos_token", "pad_token", "bos_token")
SHORTEN = "shorten the prompts"
RESIZE = "call model.resize_token_embeddings(len(tokenizer)) and save it again"


def room(model: Any, sequences: Iterable[Sequence[int]], most: int) -> int:
    """How many tokens, `most` or fewer, can be sampled after each of these sequences; at least 1, which `fit` tries."""
    longest = max(map(len, sequences), default=0)
    return max(1, min([most, *(limit - longest for limit, _, final in _limits(model) if final)]))


def check_fit(model: Any, sequences: Iterable[Sequence[int]], setting: str, max_tokens: int = 0) -> int:
    """As `fit`; what it would have to say is logged."""
    longest, doubt = fit(model, sequences, setting, max_tokens)
    if doubt:
        log.warning("%s", doubt)
    return longest


def fit(model: Any, sequences: Iterable[Sequence[int]], setting: str, max_tokens: int = 0) -> tuple[int, str | None]:
    """Tokens of the longest sequence with `max_tokens` sampled after it, and a doubt whether the model knows so many.

    Rotary positions can be computed beyond those that were trained, and what is sampled there is no use. Of stretched
    ones (linear, yarn) settings say in several ways how far they go: beyond what they say is a doubt.

    Raises:
        UserError: it has no such positions, other ones for shorter sequences, or no embedding for one of the tokens.
    """
    longest, highest = 0, -1
    for ids in sequences:
        longest, highest = max(longest, len(ids)), max(highest, max(ids, default=-1))
    if (rows := embeddings(model)) <= highest:
        raise UserError(f"token {highest} has no embedding, the model has {rows}: {RESIZE}")
    asked = f"{setting}={max_tokens} after a prompt of" if max_tokens else f"{setting} of"
    doubt = None
    for limit, why, final in _limits(model):
        if longest + max_tokens > limit:
            text = f"{asked} {longest} tokens is more than {why}"
            room = limit - longest if max_tokens else limit
            remedy = f"set {'it' if max_tokens else 'max_tokens'} to at most {room}" if room > 0 else SHORTEN
            if final:
                raise UserError(f"{text}; {remedy}")
            doubt = f"{text}: what is computed beyond them is no use"
    selected = getattr(model.config.get_text_config(), "index_topk", None)
    if max_tokens and selected and longest + max_tokens > selected and doubt is None:
        doubt = (
            f"{asked} {longest} tokens is more than the {selected} that its sparse attention selects (index_topk): "
            "engine and trainer may then select others, which stops a training"
        )
    return longest + max_tokens, doubt


def embeddings(model: Any) -> int:
    """How many tokens have one."""
    return int(model.get_input_embeddings().weight.shape[0])


def _limits(model: Any) -> Iterator[tuple[int, str, bool]]:
    """(tokens, what they are, whether nothing right is computed beyond)."""
    settings = model.config.get_text_config()
    positions = getattr(settings, "max_position_embeddings", None)
    rope = getattr(settings, "rope_parameters", None) or {}
    kinds = [rope] if "rope_type" in rope else [one for one in rope.values() if isinstance(one, dict)]
    for kind in kinds:
        change = {"dynamic": positions, "longrope": kind.get("original_max_position_embeddings")}.get(kind["rope_type"])
        if change:
            # What was computed of the first tokens no longer fits then, and which it is depends on the batch.
            yield change, f"the {change} tokens up to which its rotary positions ({kind['rope_type']}) are one", True
    if positions:
        table = _has_table(model, positions)
        plain = bool(kinds) and all(kind["rope_type"] in ("default", "llama3") for kind in kinds)
        yield positions, f"the model's {positions} positions{', and it has no others' if table else ''}", table or plain


def _has_table(model: Any, positions: int) -> bool:
    """Whether each position has a row of its own, learnt or computed, and there are no others."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return any(_TABLE.search(name) and 0 <= len(t) - positions <= _OFFSET for name, t in tensors if t.ndim)


def check_special(tokenizer: Any, rows: int, configured: Any) -> None:
    """
    Raises:
        UserError: a token that begins, ends or pads a sequence is beyond the model's `rows` of embeddings.
    """
    ends = configured if isinstance(configured, list | tuple) else [configured]
    own = {f"the tokenizer's {name}": [getattr(tokenizer, f"{name}_id")] for name in SPECIAL}
    for name, ids in ({"eos_token_id": ends} | own).items():
        beyond = [index for index in ids if index is not None and index >= rows]
        if beyond:
            raise UserError(f"{name} is {beyond[0]}, and the model has {rows} embeddings: mend it, or {RESIZE}")
