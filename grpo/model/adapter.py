"""Low-rank adapters on peft: put on, and exported merged. The weights under an adapter are never written to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from grpo.config.algorithm import LoraConfig
from grpo.errors import UserError

_PREFIX = "base_model.model."  # what peft puts before the model's own names
ALL_LINEAR = "all-linear"


def add_adapter(model: Any, config: LoraConfig, seed: int = 0) -> Any:
    """The model with a new adapter, whose output is that of the model itself: B starts at 0, A is drawn from `seed`.

    Raises:
        UserError: the targets fit no layer, so nothing would train, or one that cannot be adapted; no bias to train.
    """
    import peft
    from transformers.pytorch_utils import Conv1D

    targets = target_names(model, config.targets)
    settings = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        use_rslora=config.rank_stabilised,
        bias=config.bias,
        fan_in_fan_out=all(isinstance(model.get_submodule(name), Conv1D) for name in targets),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):  # peft draws on the CPU; every process of a run gets the same A
        torch.default_generator.manual_seed(seed)
        adapted = peft.get_peft_model(model, settings, autocast_adapter_dtype=False)
    if config.bias != "none" and not any(p.requires_grad for n, p in adapted.named_parameters() if n.endswith(".bias")):
        raise UserError(f"'lora.bias: {config.bias}' has no effect: the model has no such bias; remove it")
    return adapted.eval()


def _layers(model: Any) -> dict[str, Any]:
    """What can be adapted, by name. (The fused experts of a mixture are no layers and stay as they are.)"""
    from transformers.pytorch_utils import Conv1D

    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D | nn.Embedding)}


def target_names(model: Any, targets: str | tuple[str, ...]) -> list[str]:
    """Full names of the layers that the targets mean, read as peft reads them.

    A list holds names or ends of names, each of which must fit; a string is a regular expression for the whole name,
    or `all-linear`: all linear layers but the output layer.

    Raises:
        UserError: one fits no layer, or one that shares its weight with another.
    """
    layers = _layers(model)
    if targets == ALL_LINEAR:
        head = model.get_output_embeddings()
        return [n for n, m in layers.items() if m is not head and not isinstance(m, nn.Embedding)]
    if isinstance(targets, str):
        patterns = {targets: targets}
    else:
        patterns = {target: rf"(?:.*\.)?{re.escape(target)}" for target in targets}
    names = [name for target, pattern in patterns.items() for name in _fitting(pattern, layers, target)]
    _refuse_tied(names, layers)
    return sorted(set(names))


def _fitting(pattern: str, layers: Mapping[str, Any], shown: str) -> list[str]:
    """The names that the pattern matches as a whole; a `UserError` when there are none, or it is no pattern."""
    try:
        names = [name for name in layers if re.fullmatch(pattern, name)]
    except re.error as error:
        raise UserError(f"'lora.targets': '{shown}' is not a regular expression: {error}") from error
    if not names:
        examples = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in layers))
        raise UserError(f"'lora.targets': '{shown}' fits no layer of the model, which has {examples}")
    return names


def _refuse_tied(targets: list[str], layers: Mapping[str, Any]) -> None:
    """An adapter on one of two layers that share a weight makes them differ, which no plain model can hold."""
    owners = Counter(id(layer.weight) for layer in layers.values())
    tied = [name for name in targets if owners[id(layers[name].weight)] > 1]
    if tied:
        raise UserError(
            f"'lora.targets': '{tied[0]}' shares its weight with another layer (tied embeddings), so an adapter on it "
            "could not be merged: leave it out"
        )


def is_adapted(model: Any) -> bool:
    """Whether peft has put an adapter on it."""
    return hasattr(model, "peft_config")


def base_model(model: Any) -> Any:
    """The Hugging Face model, without the wrapper of an adapter."""
    return model.get_base_model() if is_adapted(model) else model


def merged_tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """(Hugging Face name, tensor) of all weights, adapters added to a copy of theirs."""
    if not is_adapted(model):
        yield from model.state_dict().items()
        return
    from peft.tuners.lora import LoraLayer

    adapted = {name: m for name, m in model.named_modules() if isinstance(m, LoraLayer)}
    for name, tensor in model.state_dict().items():
        owner, inside, kind = name.rpartition(".base_layer.")
        plain = f"{owner}.{kind}" if inside else name
        if ".lora_" in plain:
            continue
        if inside and kind == "weight":
            tensor = tensor + adapted[owner].get_delta_weight("default").detach().to(tensor.dtype)
        yield plain.removeprefix(_PREFIX), tensor
