"""Checkpoints of an RL run at rollout boundaries: written aside, renamed when whole, the last few kept."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model

FORMAT = 1  # of the folder's layout


@dataclass
class TrainState:
    """What the loop carries from step to step besides tensors."""

    step: int = 0  # optimizer updates done
    tokens: int = 0  # completion tokens sampled
    skipped: int = 0  # updates not applied: nothing to train, or a non-finite gradient
    seconds: float = 0.0
    reference_step: int = 0  # the step whose weights the reference holds; 0: the model the run started from
    drawn: dict[str, int] = field(default_factory=dict)  # the prompt sampler's state


def save_checkpoint(
    folder: Path, keep: int, state: TrainState, model: Any, optimizer: torch.optim.Optimizer, reference: Any | None
) -> Path:
    """Write `folder/step-000100` (model, optimizer, state, and the reference if it was ever replaced)."""
    target = folder / f"step-{state.step:06d}"
    partial = folder / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_model(model, str(partial / "model.safetensors"))
    if reference is not None and state.reference_step > 0:
        save_model(reference, str(partial / "reference.safetensors"))
    torch.save(optimizer.state_dict(), partial / "optimizer.pt")
    (partial / "state.json").write_text(json.dumps({"format": FORMAT, **asdict(state)}, indent=1))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first. A folder is renamed into place last, so what has the name is whole."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())


def load_checkpoint(
    path: Path, model: Any, optimizer: torch.optim.Optimizer, reference: Any | None, device: torch.device
) -> TrainState:
    """Put a checkpoint back into these objects. Tensors only: no pickled code is run."""
    stored: Mapping[str, Any] = json.loads((path / "state.json").read_text())
    state = TrainState(**{key: value for key, value in stored.items() if key != "format"})
    load_model(model, str(path / "model.safetensors"), device=str(device))
    optimizer.load_state_dict(torch.load(path / "optimizer.pt", map_location=device, weights_only=True))
    if reference is not None and state.reference_step > 0:
        load_model(reference, str(path / "reference.safetensors"), device=str(device))
    return state
