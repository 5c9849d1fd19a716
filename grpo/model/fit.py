"""What the trainer has to know of a model before it takes its log-probs, measured on a few tokens."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from typing import Any

import torch

from grpo.errors import UserError, first_line
from grpo.model.adapter import base_model
from grpo.model.attention import shared_attention
from grpo.model.flops import ModelSize, size_of
from grpo.model.head import LogitShape
from grpo.model.logprobs import predicting_states, token_logprobs
from grpo.model.packing import ModelInput, make_input

log = logging.getLogger("grpo")

LIMIT = 1e-4  # relative; rounding gives 1e-6 in fp32, a token that sees another's prompt 1e-2
SEEN_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class ModelFit:
    """How a model is to be run. `share_prompts`: a group's prompt goes through it once; else rows are padded.
    `size`: what a token costs, None when it cannot be told."""

    share_prompts: bool
    shape: LogitShape
    size: ModelSize | None = None


def fit_of(model: Any, temperature: float) -> ModelFit:
    """Ask the model itself; says so when prompts cannot be shared.

    Raises:
        UserError: it is no causal model, or its logits are not its last layer's, but for a factor or a softcap.
    """
    check_causal(model)
    shape = replace(_logit_shape(model), temperature=temperature)
    reason = why_not_shared(model)
    if reason is not None:
        log.warning("%s: prompts are not shared and rows are padded: %s", type(base_model(model)).__name__, reason)
    return ModelFit(reason is None, shape, size_of(model))


def probe_ids(model: Any) -> tuple[int, ...]:
    """Tokens of all over the vocabulary."""
    base = base_model(model)
    parts = [part for part in (base.get_input_embeddings(), base.get_output_embeddings()) if part is not None]
    vocabulary = min(part.weight.shape[0] for part in parts)
    return tuple(int(token) for token in torch.arange(1, 41) * 7919 % vocabulary)


@torch.no_grad()
def check_causal(model: Any) -> None:
    """Does no token see a later one?

    Raises:
        UserError: one does (an encoder, BERT for one), or the model has no forward of tokens alone.
    """
    name, ids = type(base_model(model)).__name__, torch.tensor([probe_ids(model)[:16]], device=model.device)
    other = ids.clone()
    other[0, -1] = ids[0, 0]
    try:
        before, after = (model(input_ids=row, use_cache=False).logits[0, :-1].double() for row in (ids, other))
    except Exception as error:
        text = first_line(error, typed=True)
        raise UserError(f"{name} does not take tokens alone, as a language model does: {text}") from error
    if not (before.isfinite().all() and after.isfinite().all()):
        raise UserError(
            f"{name} gives logits that are not finite (NaN or infinite): its config.json or weights are wrong"
        )
    if not (before - after).norm() <= LIMIT * before.norm():
        raise UserError(
            f"{name} is not causal: what it says of a token changes with later ones; nothing can be sampled"
        )


def _probe(model: Any, *, share_prompts: bool) -> ModelInput:
    """Two prompts and five completions of different lengths."""
    ids = probe_ids(model)
    first, second = ids[:7], ids[7:12]
    sequences = [(first, ids[12:18]), (first, ids[18:21])]
    sequences += [(second, ids[start:end]) for start, end in ((21, 30), (30, 31), (31, 40))]
    return make_input(sequences, next(model.parameters()).device, share_prompts=share_prompts)


@torch.no_grad()
def _logit_shape(model: Any) -> LogitShape:
    """How the model's own logits come of those of its last layer: a softcap (Gemma 2), a factor (Cohere, Granite)."""
    base, rows = base_model(model), _probe(model, share_prompts=False)
    logits = base(input_ids=rows.token_ids, use_cache=False).logits.flatten(0, 1).index_select(0, rows.predictors)
    expected = logits.double().log_softmax(-1).gather(-1, rows.targets.unsqueeze(-1)).squeeze(-1)
    capped = [LogitShape(softcap=cap) for cap in _softcaps(base.config.get_text_config())]
    for shape in [*capped, _scaled(model, rows, logits.double())]:
        logprobs = token_logprobs(model, rows, shape).logprobs.double()
        if (logprobs - expected).abs().max() <= LIMIT * (1 + expected.abs().max()):
            return shape
    raise UserError(f"{type(base).__name__} makes its logits in a way that the trainer does not know")


def _softcaps(settings: Any) -> set[float]:
    """Caps that the model may have on its logits; families name them differently."""
    named = ((name, value) for name, value in settings.to_dict().items() if re.search(r"logits?_soft_?cap", name))
    return {float(value) for name, value in named if value and not name.startswith("att")}


def _scaled(model: Any, rows: ModelInput, logits: torch.Tensor) -> LogitShape:
    plain = base_model(model).get_output_embeddings()(predicting_states(model, rows)).double()
    scale = float((logits * plain).sum() / plain.square().sum())
    return LogitShape(scale=1.0 if abs(scale - 1) < LIMIT else scale)


@torch.no_grad()
def why_not_shared(model: Any) -> str | None:
    """Why a group's prompt cannot go through the model once; None when it can."""
    config = base_model(model).config.get_text_config()
    strange = set(getattr(config, "layer_types", None) or ()) - SEEN_LAYERS
    if strange:
        return f"it has layers of the kind {sorted(strange)[0]}"
    plain, shared = _probe(model, share_prompts=False), _probe(model, share_prompts=True)
    expected = predicting_states(model, plain)
    try:
        with shared_attention(base_model(model)):
            states = predicting_states(model, shared)
    except Exception as error:  # noqa: BLE001 - whatever its own code makes of rows that it was not written for
        return f"its attention cannot be replaced ({first_line(error, typed=True)})"
    difference = float((states - expected).norm() / expected.norm())
    if not difference <= LIMIT:
        return f"its states would differ by {difference:.1g}"
    return None
