"""An optimizer's state as tensors and JSON, so that reading it can run no code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def pack(state: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(tensors by `<parameter>.<name>`, the rest as JSON) of what `Learner.optimizer_state` gives."""
    entries = state["optimizer"]["state"]
    tensors = {
        f"{index}.{name}": value.detach().cpu().contiguous()
        for index, entry in entries.items()
        for name, value in entry.items()
        if isinstance(value, torch.Tensor)
    }
    plain = {
        str(index): {name: value for name, value in entry.items() if not isinstance(value, torch.Tensor)}
        for index, entry in entries.items()
    }
    return tensors, {"state": plain, "groups": state["optimizer"]["param_groups"], "scaler": state["scaler"]}


def unpack(tensors: Mapping[str, torch.Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    """What `pack` was given."""
    entries: dict[int, dict[str, Any]] = {int(index): dict(entry) for index, entry in rest["state"].items()}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        entries[int(index)][name] = tensor
    groups = [  # JSON has no tuples
        {name: tuple(value) if name == "betas" else value for name, value in group.items()} for group in rest["groups"]
    ]
    return {"optimizer": {"state": entries, "param_groups": groups}, "scaler": rest["scaler"]}
