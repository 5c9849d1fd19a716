"""What the trainer has to know of a model before it takes its log-probs, measured on a few tokens."""

from __future__ import annotations

import logging
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
        UserError: its logits are not its last layer's, but for a factor or a softcap.
    """
    shape = replace(_logit_shape(model), temperature=temperature)
    reason = why_not_shared(model)
    if reason is not None:
        log.warning("%s: prompts are not shared and rows are padded: %s", type(base_model(model)).__name__, reason)
    return ModelFit(reason is None, shape, size_of(model))


def _probe(model: Any, *, share_prompts: bool) -> ModelInput:
    """Two prompts and five completions of different lengths."""
    vocabulary = base_model(model).get_input_embeddings().weight.shape[0]
    ids = tuple(int(token) for token in torch.arange(1, 41) * 7919 % vocabulary)
    first, second = ids[:7], ids[7:12]
    sequences = [(first, ids[12:18]), (first, ids[18:21])]
    sequences += [(second, ids[start:end]) for start, end in ((21, 30), (30, 31), (31, 40))]
    return make_input(sequences, next(model.parameters()).device, share_prompts=share_prompts)


@torch.no_grad()
def _logit_shape(model: Any) -> LogitShape:
    """The factor by which the model's own logits differ from those of its last layer (Cohere, Granite, Falcon H1)."""
    rows = _probe(model, share_prompts=False)
    softcap = getattr(base_model(model).config.get_text_config(), "final_logit_softcapping", None)
    logits = base_model(model)(input_ids=rows.token_ids, use_cache=False).logits.flatten(0, 1)
    logits = logits.index_select(0, rows.predictors).double()
    shape = LogitShape(softcap=softcap)
    if softcap is None:
        plain = base_model(model).get_output_embeddings()(predicting_states(model, rows)).double()
        scale = float((logits * plain).sum() / plain.square().sum())
        shape = LogitShape(scale=1.0 if abs(scale - 1) < LIMIT else scale)
    expected = logits.log_softmax(-1).gather(-1, rows.targets.unsqueeze(-1)).squeeze(-1)
    logprobs = token_logprobs(model, rows, shape).logprobs.double()
    if not (logprobs - expected).abs().max() <= LIMIT * (1 + expected.abs().max()):
        raise UserError(f"{type(base_model(model)).__name__} makes its logits in a way that the trainer does not know")
    return shape


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
