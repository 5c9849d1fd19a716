"""Low-rank adapters on peft: put on, and exported merged. The weights under an adapter are never written to."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch

from grpo.config.algorithm import LoraConfig
from grpo.errors import UserError
from grpo.model.adapter_targets import felt, fused_experts, target_names

log = logging.getLogger("grpo")

_PREFIX = "base_model.model."  # what peft puts before the model's own names
_RENAMING = "peft.utils.transformers_weight_conversion.convert_peft_config_for_transformers"


def add_adapter(model: Any, config: LoraConfig, seed: int = 0) -> Any:
    """The model with a new adapter, whose output is that of the model itself: B starts at 0, A is drawn from `seed`.

    Raises:
        UserError: the targets fit no layer, so nothing would train, or one that cannot be adapted; no bias to train.
    """
    import peft
    from transformers.pytorch_utils import Conv1D

    targets = felt(model, target_names(model, config.targets), config.targets)
    check_bias(model, targets, config.bias)
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
    # peft would take the names of dense and shared layers of a mixture for parts of its experts (see `_as_parameters`).
    with torch.random.fork_rng(devices=[]), mock.patch(_RENAMING):
        torch.default_generator.manual_seed(seed)  # peft draws on the CPU; every process of a run gets the same A
        adapted = peft.get_peft_model(model, settings, autocast_adapter_dtype=False)
    if others := set(targets) ^ {name.removeprefix(_PREFIX) for name in _adapters(adapted)}:
        raise UserError(f"'lora.targets': peft adapts other layers than they mean, '{min(others)}' for one")
    _as_parameters(adapted, targets)
    if untrained := fused_experts(model):
        log.warning("lora.targets leaves %d fused expert tensors untrained", untrained)
    return adapted.eval()


def check_bias(model: Any, targets: Sequence[str], bias: str) -> None:
    """
    Raises:
        UserError: biases are to be trained, and there are none, in the model or (`lora_only`) in the targets.
    """
    there = {name for name, _ in model.named_parameters() if name.endswith(".bias")}
    if bias == "lora_only":
        there &= {f"{name}.bias" for name in targets}
    if bias != "none" and not there:
        raise UserError(f"'lora.bias: {bias}' has no effect: the model has no such bias; remove it")


def _adapters(model: Any) -> dict[str, Any]:
    """The layers with an adapter, by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _as_parameters(adapted: Any, targets: list[str]) -> None:
    """Who loads the adapter with peft (0.21) gets it where it was: layers of a mixture whose names peft takes for parts
    of the fused experts (`gate_proj` of a dense or shared layer) are named as parameters in its config."""
    import peft
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    def renamed(leaf: str) -> bool:
        trial = peft.LoraConfig(target_modules=[leaf])
        try:
            convert_peft_config_for_transformers(trial, adapted.get_base_model(), None)
        except ValueError:  # it wants all parts of an expert
            return True
        return trial.target_modules != {leaf}

    leaves = {leaf for leaf in {name.rpartition(".")[2] for name in targets} if renamed(leaf)}
    moved = [name for name in targets if name.rpartition(".")[2] in leaves]
    if moved:
        settings = adapted.peft_config["default"]
        settings.target_modules = set(targets) - set(moved)
        settings.target_parameters = [f"{name}.weight" for name in moved]
        settings.lora_dropout = 0.0  # refused beside parameters; the layers keep theirs


def is_adapted(model: Any) -> bool:
    """Whether peft has put an adapter on it."""
    return hasattr(model, "peft_config")


def base_model(model: Any) -> Any:
    """The Hugging Face model, without the wrapper of an adapter."""
    return model.get_base_model() if is_adapted(model) else model


def merged_names(model: Any) -> list[str]:
    """The model's own names of all weights."""
    return [plain for name in model.state_dict() if (plain := _plain_name(name))]


def merged_tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """(name in the model itself, tensor) of all weights, adapters added to a copy of theirs."""
    adapted = _adapters(model) if is_adapted(model) else {}
    for name, tensor in model.state_dict().items():
        plain = _plain_name(name)
        owner, inside, kind = name.rpartition(".base_layer.")
        if plain and inside and kind == "weight":
            tensor = tensor + adapted[owner].get_delta_weight("default").detach().to(tensor.dtype)
        if plain:
            yield plain, tensor


def _plain_name(name: str) -> str | None:
    """Without what peft has added to it; None: a part of an adapter."""
    owner, inside, kind = name.rpartition(".base_layer.")
    plain = f"{owner}.{kind}" if inside else name
    return None if ".lora_" in plain else plain.removeprefix(_PREFIX)
