"""What of a run's state JSON does not hold, as tensors and JSON, so that reading it can run no code.

That is the optimizer's state, and that of the global random generators, which a reward function of the user's may use:
what the trainer itself draws follows from (seed, step, ...) alone.
"""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
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


def capture_rng() -> dict[str, Any]:
    """The state of the global generators, Python's, numpy's and torch's (CPU), as JSON."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Put back what `capture_rng` gave."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(state["torch"]), dtype=torch.uint8))
