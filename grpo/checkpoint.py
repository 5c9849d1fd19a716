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
from safetensors.torch import load_file, save_file

from grpo.errors import UserError
from grpo.learner import Learner
from grpo.parallel import is_main
from grpo.reference import Reference

FORMAT = 2  # of the folder's layout


@dataclass
class TrainState:
    """What the loop carries from step to step besides tensors."""

    step: int = 0  # optimizer updates done
    tokens: int = 0  # completion tokens sampled
    skipped: int = 0  # updates not applied: nothing to train, or a non-finite gradient
    nonfinite: int = 0  # of them, those whose gradient was not finite
    nonfinite_run: int = 0  # one after the other, up to now
    seconds: float = 0.0
    saved_step: int = 0  # of the last checkpoint
    reference_step: int = 0  # the step whose weights the reference holds; 0: the model the run started from
    source: dict[str, Any] = field(default_factory=dict)  # the prompt sampler's state and leftover groups


def save_checkpoint(folder: Path, keep: int, state: TrainState, learner: Learner, reference: Reference | None) -> Path:
    """Write `folder/step-000100`: trained tensors, optimizer, state, and the reference if it was ever replaced.

    All processes take part, since shards have to be gathered; the main one writes.
    """
    target = folder / f"step-{state.step:06d}"
    tensors, optimizer = learner.tensors(), learner.optimizer_state()
    moved = reference is not None and state.reference_step > 0
    kept = learner.full(reference.values) if reference is not None and moved else {}
    if is_main():
        partial = folder / f".{target.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(tensors, partial / "model.safetensors")
        if moved:
            save_file(kept, partial / "reference.safetensors")
        torch.save(optimizer, partial / "optimizer.pt")
        (partial / "state.json").write_text(json.dumps({"format": FORMAT, **asdict(state)}))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    learner.world.wait()
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first. A folder is renamed into place last, so what has the name is whole."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())


def load_checkpoint(path: Path, learner: Learner, reference: Reference | None) -> TrainState:
    """Put a checkpoint back into these objects. Tensors only: no pickled code is run."""
    stored: Mapping[str, Any] = json.loads((path / "state.json").read_text())
    if stored["format"] != FORMAT:
        raise UserError(
            f"checkpoint '{path}': of another version of this program; move it away to start the stage anew"
        )
    state = TrainState(**{key: value for key, value in stored.items() if key != "format"})
    learner.load_tensors(load_file(path / "model.safetensors"))
    learner.load_optimizer_state(torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True))
    if reference is not None and state.reference_step > 0:
        learner.load_shards(reference.values, load_file(path / "reference.safetensors"))
    return state
