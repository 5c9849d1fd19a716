"""Which layers of a model an adapter is put on, and which it cannot be put on."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from grpo.errors import UserError

log = logging.getLogger("grpo")

ALL_LINEAR = "all-linear"
Targets = str | tuple[str, ...]


def target_names(model: Any, targets: Targets) -> list[str]:
    """Full names of the layers that the targets mean, read as peft reads them.

    A list holds names or ends of names, each of which must fit; a string is a regular expression for the whole name,
    or `all-linear`: all linear layers but the output layer, and those that an adapter cannot be put on.

    Raises:
        UserError: one fits no layer, or one that shares its weight with another or cannot be adapted.
    """
    layers = _layers(model)
    owners = Counter(id(layer.weight) for layer in layers.values())
    tied = {name for name, layer in layers.items() if owners[id(layer.weight)] > 1}
    unfit = {name: why for name, layer in layers.items() if (why := _why_unfit(model, name, layer, name in tied))}
    if targets == ALL_LINEAR:
        head = model.get_output_embeddings()
        linear = [n for n, m in layers.items() if m is not head and not isinstance(m, nn.Embedding)]
        if linear and unfit.keys() >= set(linear):
            raise UserError(f"'lora.targets': no layer can be adapted; '{linear[0]}' {unfit[linear[0]]}")
        return [name for name in linear if name not in unfit]
    if isinstance(targets, str):
        patterns = {targets: targets}
    else:
        patterns = {target: rf"(?:.*\.)?{re.escape(target)}" for target in targets}
    names = [name for target, pattern in patterns.items() for name in _fitting(pattern, layers, target)]
    for name in names:
        if name in unfit:
            raise UserError(f"'lora.targets': '{name}' {unfit[name]}: leave it out")
    return sorted(set(names))


def _layers(model: Any) -> dict[str, Any]:
    """Linear layers and embeddings, by name. (The fused experts of a mixture are no layers and stay as they are.)"""
    from transformers.pytorch_utils import Conv1D

    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D | nn.Embedding)}


def _why_unfit(model: Any, name: str, layer: Any, tied: bool) -> str | None:
    """Why no adapter can be put on it; None: one can."""
    import peft
    from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
    from transformers.pytorch_utils import Conv1D

    if tied:  # an adapter makes the two differ, which no plain model can hold
        return "shares its weight with another layer (tied embeddings), so an adapter on it could not be merged"
    plain = (nn.Linear.forward, Conv1D.forward)
    if not isinstance(layer, nn.Embedding) and type(layer).forward not in plain:
        return "computes more than a linear layer (a router does), to which no adapter can be added"
    try:
        _check_lora_target_modules_mamba(peft.LoraConfig(), model, name.rpartition(".")[2])
    except ValueError:
        return "is used by kernels of state-space layers without its adapter"
    return None


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


def felt(model: Any, names: list[str], targets: Targets) -> list[str]:
    """Those whose adapter the model would feel: some code uses the weight of a layer without calling the layer.

    Raises:
        UserError: such a layer was asked for by name.
    """
    bypassed = set(_bypassed(model, names))
    if bypassed and targets != ALL_LINEAR:
        raise UserError(
            f"'lora.targets': the model uses the weight of '{min(bypassed)}' without calling the layer, so an adapter "
            "on it would not be felt: leave it out"
        )
    if bypassed:
        text = "lora.targets leaves out %d layers whose weights the model uses without calling them, '%s' for one"
        log.warning(text, len(bypassed), min(bypassed))
    return [name for name in names if name not in bypassed]


def _bypassed(model: Any, names: list[str]) -> list[str]:
    """What a forward on a few tokens does not call, although its weight has a gradient from there."""
    called: set[str] = set()

    def noting(name: str) -> Any:
        return lambda *_: called.add(name)

    hooks = [model.get_submodule(name).register_forward_pre_hook(noting(name)) for name in names]
    tokens = torch.arange(1, 9, device=next(model.parameters()).device).unsqueeze(0)
    try:
        with torch.no_grad():
            model(input_ids=tokens, use_cache=False)
        silent = [name for name in names if name not in called]
        if not silent:  # the rule: then no gradient is needed
            return []
        logits = model(input_ids=tokens, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    weights = [model.get_submodule(name).weight for name in silent]
    gradients = torch.autograd.grad(logits.sum(), weights, allow_unused=True)
    return [name for name, gradient in zip(silent, gradients, strict=True) if gradient is not None]


def fused_experts(model: Any) -> int:
    """How many tensors hold the experts of a mixture in one: no layers, so no adapter is put on them."""
    owners = [name.rpartition(".")[0] for name, parameter in model.named_parameters() if parameter.ndim == 3]
    return sum(not isinstance(model.get_submodule(owner), nn.Conv1d) for owner in owners)
