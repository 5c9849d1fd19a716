"""Weight decay: what it acts on, in RL, SFT and reward models alike, and optimizer states of before that was so."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch


def decay_groups(parameters: Iterable[torch.nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices, embeddings too, are decayed; biases and norms (vectors) are not, as transformers' Trainer has it."""
    listed = list(parameters)
    return [
        {"params": [p for p in listed if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in listed if p.ndim < 2], "weight_decay": 0.0},
    ]


def in_groups(state: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], order: Sequence[Any]) -> dict[str, Any]:
    """An optimizer's state as it is in `groups`, with their settings, whether its parameters were grouped so or not.

    `order`: of the parameters where they are not grouped.
    """
    grouped = [parameter for group in decay_groups(order, 0.0) for parameter in group["params"]]
    old = {id(one): index for index, one in enumerate(grouped if len(state["param_groups"]) > 1 else order)}
    entries: dict[int, Any] = {}
    made: list[dict[str, Any]] = []
    number = itertools.count()
    for group in groups:
        places = {next(number): old[id(parameter)] for parameter in group["params"]}
        entries |= {new: state["state"][place] for new, place in places.items() if place in state["state"]}
        made.append({**group, "params": list(places)})
    return {"state": entries, "param_groups": made}
