"""Checkpoints of an RL run at rollout boundaries: whole, checksummed, on the disk; the last few and the best stay."""

import contextlib
import json
import logging
import math
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from grpo.checkpoint.pack import pack, unpack
from grpo.checkpoint.sealed import MANIFEST, VERSION, damage, sealed_folder, write_tensors
from grpo.config.training import CheckpointConfig
from grpo.errors import UserError
from grpo.learner.learner import Learner
from grpo.model.reference import Reference
from grpo.monitoring.metrics import read_rows
from grpo.system.files import check_leads_somewhere, check_room, reason, write_text
from grpo.types import TrainState

log = logging.getLogger("grpo")

FORMAT = 4  # of the folder's layout
READABLE = (3, FORMAT)  # 3: before something could wait that was sampled ahead
OVERHEAD = 8192  # bytes of a file's header and its last block, about
LATEST = "latest"  # file beside the checkpoints with the name of the newest
BEST = "best"  # likewise, of the one with the highest score, where `checkpoint.best` asks for it


def save_checkpoint(
    folder: Path,
    config: CheckpointConfig,
    state: TrainState,
    learner: Learner,
    reference: Reference | None,
    behaviour: Reference | None = None,
) -> Path | None:
    """Write `folder/step-000100`: trained tensors, optimizer, state, and the reference if it was ever replaced.
    `behaviour`: the weights that are yet to draw what was begun ahead.

    All processes take part, since shards have to be gathered; the main one writes. None, with a warning, when the disk
    did not take it: what was there before is untouched.
    """
    target = folder / f"step-{state.step:06d}"
    tensors = {"model": learner.tensors()}
    tensors["optimizer"], rest = pack(learner.optimizer_state())
    if reference is not None and state.reference_step > 0:
        tensors["reference"] = learner.full(reference.values)
    if behaviour is not None:
        tensors["behaviour"] = learner.full(behaviour.values)
    values = {"optimizer": rest, "state": vars(state)}
    error = learner.world.main_finds(lambda: _write(target, config, tensors, values))
    if error is not None:
        warn_of_no_checkpoint(target, error)
    return target if error is None else None


def warn_of_no_checkpoint(target: Path, why: str) -> None:
    """`target`: the folder it would have had."""
    text = "no checkpoint at step %d: cannot write '%s': %s; training goes on, saving is tried again later"
    log.warning(text, int(target.name.removeprefix("step-")), target, why)


def _write(
    target: Path,
    config: CheckpointConfig,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    values: Mapping[str, Any],
) -> str | None:
    """Why it failed, if it did."""
    texts = {name: json.dumps(value) for name, value in values.items()}
    needed = sum(tensor.nbytes for content in tensors.values() for tensor in content.values())
    needed += sum(len(text) for text in texts.values()) + OVERHEAD * (len(tensors) + len(texts) + 1)
    folder = target.parent
    try:
        check_room(folder, needed)
        with sealed_folder(target, FORMAT) as partial:
            for name, content in tensors.items():
                write_tensors(partial / f"{name}.safetensors", content)
            for name, text in texts.items():
                write_text(partial / f"{name}.json", text)
        retain(target, config)
    except OSError as error:
        return reason(error, folder, needed)
    return None


def retain(good: Path, config: CheckpointConfig) -> None:
    """After `good` was written: it is the latest; the last few before it and the best one stay.

    Raises:
        OSError: the disk did not take the name of the latest; nothing was dropped.
    """
    write_text(good.parent / LATEST, good.name + "\n")
    _prune(good, config)
    for path in good.parent.glob("step-*"):  # of a run that was taken up again before them, because they were damaged
        if path > good:
            shutil.rmtree(path, ignore_errors=True)


def tidy(good: Path, config: CheckpointConfig) -> None:
    """Finish what a kill after the last save may have left undone, once a run goes on from `good`."""
    with contextlib.suppress(OSError):  # a full disk: the next save tries again
        write_text(good.parent / LATEST, good.name + "\n")
    for leftover in good.parent.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    _prune(good, config)


def _prune(good: Path, config: CheckpointConfig) -> None:
    """Of `good`, which was just written or checked, and those before it keep the last few and the one of the highest
    score; and nothing half-removed."""
    whole = [path for path in checkpoints(good.parent) if path <= good]
    kept = whole[-config.keep :]
    if config.best is not None:
        best = max(whole, key=lambda path: (_score(path), path))
        kept.append(best)
        with contextlib.suppress(OSError):  # a full disk: the next save tries again
            write_text(good.parent / BEST, best.name + "\n")
    for path in good.parent.glob("step-*"):
        if path < good and path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _score(path: Path) -> float:
    """The lowest for one that has none, or cannot be read."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        score = read_state(path).score
        if score is not None:
            return score
    return -math.inf


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints, oldest first. A folder is renamed into place last, so what has the name was whole."""
    return sorted(path for path in folder.glob("step-*") if (path / MANIFEST).is_file())


def last_good(folder: Path, forms: Collection[int] = READABLE) -> Path | None:
    """The newest checkpoint of which every byte is as it was written; a damaged one is named. None: there are none.
    `forms`: the versions of its layout.

    Raises:
        UserError: there are some, or were, but no good one: to begin anew is the user's to decide.
    """
    check_leads_somewhere(folder)
    damages = {path.name: damage(path, *forms) for path in sorted(folder.glob("step-*"), reverse=True)}
    latest = folder / LATEST
    named = latest.read_text(encoding="utf-8", errors="replace").strip() if latest.is_file() else None
    if named is not None and named not in damages:
        damages = {named: f"'{LATEST}' names it, but it is gone", **damages}
    good = next((name for name, wrong in damages.items() if wrong is None), None)
    bad = [f"{name}: {wrong}" for name, wrong in damages.items() if wrong is not None and (not good or name > good)]
    if bad and good is None:
        way = "use that version" if all(line.endswith(VERSION) for line in bad) else "put back a copy of one"
        raise UserError(
            f"no checkpoint in '{folder}' can be used ({'; '.join(bad)}): {way}, "
            "or move that folder away to train from the start"
        )
    if bad:
        log.warning("damaged checkpoint in '%s' (%s): going on from the one before, %s", folder, "; ".join(bad), good)
    rows = () if good else read_rows(folder.parent / "metrics.jsonl")
    steps = sum(row["step"] > 0 for _, row in rows)  # 0: an evaluation before the first
    if steps:
        log.warning("no checkpoint in '%s': the %d steps in metrics.jsonl are done again", folder, steps)
    return folder / good if good else None


def read_state(path: Path) -> TrainState:
    """Everything but the tensors of a checkpoint that `last_good` gave."""
    return TrainState(**json.loads((path / "state.json").read_text(encoding="utf-8")))


def load_checkpoint(path: Path, learner: Learner, reference: Reference | None) -> TrainState:
    """Put a checkpoint back into these objects. Safetensors and JSON only: no pickle is ever read."""
    state = read_state(path)
    learner.load_tensors(load_file(path / "model.safetensors"))
    rest = json.loads((path / "optimizer.json").read_text(encoding="utf-8"))
    learner.load_optimizer_state(unpack(load_file(path / "optimizer.safetensors"), rest))
    if reference is not None and state.reference_step > 0:
        learner.load_shards(reference.values, load_file(path / "reference.safetensors"))
    return state


def load_behaviour(path: Path, learner: Learner, behaviour: Reference) -> None:
    """Put back the weights of that name, which `save_checkpoint` was given."""
    learner.load_shards(behaviour.values, load_file(path / "behaviour.safetensors"))
