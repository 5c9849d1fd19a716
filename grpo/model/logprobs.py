"""Log-probs and entropies of trained tokens: one forward through the decoder, and the head on what is needed of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grpo.errors import UserError
from grpo.model.adapter import base_model
from grpo.model.head import LogitShape, target_logprobs
from grpo.model.packing import ModelInput


@dataclass(frozen=True)
class TokenLogprobs:
    """Of each trained token, completion after completion."""

    logprobs: Float[Tensor, " N"]
    entropy: Float[Tensor, " N"]  # in nats; zero when not asked for


def token_logprobs(
    model: Any, rows: ModelInput, shape: LogitShape, *, with_entropy: bool = False, entropy_gradient: bool = False
) -> TokenLogprobs:
    """Log-probs (and entropies) of the trained tokens, at the sampling temperature.

    Rows with `segments` need `grpo.model.attention.shared_attention` around this and its backward.

    Raises:
        UserError: the model's head is no linear layer.
    """
    run = getattr(model, "run_inside", None)  # sharded: weights are whole only inside the model's own forward
    arguments = (rows, shape, with_entropy, entropy_gradient)
    return TokenLogprobs(*(run(_of_states, *arguments) if run is not None else _of_states(model, *arguments)))


def _of_states(
    model: Any, rows: ModelInput, shape: LogitShape, with_entropy: bool, entropy_gradient: bool
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    states, weight, bias = _head(predicting_states(model, rows), base_model(model).get_output_embeddings())
    return target_logprobs(
        states, weight, bias, rows.targets, shape, with_entropy=with_entropy, entropy_gradient=entropy_gradient
    )


def predicting_states(model: Any, rows: ModelInput) -> Float[Tensor, "N D"]:
    """What the decoder gives to the head for each trained token."""
    base = base_model(model)
    decoder = base.get_decoder()
    if decoder is base or decoder is base.get_output_embeddings():  # some do not say it, or say another thing
        decoder = base.model
    packed: dict[str, Any] = {}
    if rows.segments is not None:
        # A mask of four dimensions is passed on as it is: none is made, and `segments` says what is seen.
        mask = torch.empty(1, 1, 1, 1, device=rows.token_ids.device)
        packed = {"position_ids": rows.positions, "attention_mask": mask, "segments": rows.segments}
    states = decoder(input_ids=rows.token_ids, use_cache=False, **packed).last_hidden_state
    return states.flatten(0, 1).index_select(0, rows.predictors)


def _head(states: Float[Tensor, "N D"], head: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """States, weight and bias whose product are the logits. An adapter adds columns: xW + (xA)B = [x, xA] [W; B]."""
    base = head.get_base_layer() if hasattr(head, "get_base_layer") else head
    if not isinstance(base, nn.Linear) or base.weight.shape[-1] != states.shape[-1]:
        raise UserError(f"the model's output layer is a {type(base).__name__}, which the trainer cannot score with")
    if base is head:
        return states, base.weight, base.bias
    name = head.active_adapters[0]
    inner = head.lora_A[name](head.lora_dropout[name](states)) * head.scaling[name]
    weight = torch.cat([base.weight, head.lora_B[name].weight], -1)
    return torch.cat([states, inner.to(states.dtype)], -1), weight, base.bias
