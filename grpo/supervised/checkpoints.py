"""Checkpoints of a training on a Hugging Face Trainer: its own files, with the guarantees of `grpo.checkpoint.sealed`.

The Trainer reads its tensors back with `weights_only`: no pickle in these files is ever executed.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from grpo.checkpoint.identity import check_same, conditions, differences
from grpo.checkpoint.sealed import seal_as
from grpo.checkpoint.store import last_good, retain, tidy, warn_of_no_checkpoint
from grpo.config.training import CheckpointConfig
from grpo.system.files import as_os_error, check_room, reason, write_json
from grpo.system.world import World, is_main

log = logging.getLogger("grpo")

FORMAT = 1  # of a checkpoint: the Trainer's files, CONDITIONS, and the manifest of `grpo.checkpoint.sealed`
CONDITIONS = "conditions.json"  # what its sums were rounded by, and the rows that were trained on
ROWS = "rows"
OVERHEAD = 1 << 16  # bytes of the files beside the tensors, about


class Saved:
    """Mixed into the trainers: a checkpoint appears whole or not at all; when the disk does not take it, that is a
    warning and the training goes on. Nothing else is written, and no usage reported (TRL's trainers would)."""

    keeping: CheckpointConfig  # how many stay
    rows_hash: str  # of what the training is made from

    def _send_telemetry(self) -> None:
        return

    def create_model_card(self, *_: Any, **__: Any) -> None:
        return

    def _save_checkpoint(self: Any, *arguments: Any, **options: Any) -> None:
        """The Trainer's own method writes into a folder of the final name, and drops old ones without a look: here the
        checkpoint gets its name with its checksums, and only then are old ones dropped."""
        folder, step = Path(str(self.args.output_dir)), self.state.global_step
        made, target = folder / f"checkpoint-{step}", folder / f"step-{step:06d}"
        needed = _size(self)
        failure: str | None = None
        try:
            if is_main():
                check_room(folder, needed)
            super()._save_checkpoint(*arguments, **options)  # type: ignore[misc]
        except (OSError, SafetensorError, RuntimeError) as error:
            failure = reason(as_os_error(error, made), folder, needed)
        failures = [why for why in World.current().gather(failure) if why]  # every process has written its part
        if is_main() and not failures:
            try:
                write_json(made / CONDITIONS, _conditions(self))
                seal_as(made, target, FORMAT)
                retain(target, self.keeping)
            except OSError as error:
                failures.append(reason(error, folder, needed))
        if is_main() and failures:
            shutil.rmtree(made, ignore_errors=True)
            warn_of_no_checkpoint(target, failures[0])
        World.current().wait()


def _size(trainer: Any) -> int:
    """Bytes of a checkpoint, about."""
    moments = (value for entry in trainer.optimizer.state.values() for value in entry.values())
    tensors = [*trainer.model.state_dict().values(), *(v for v in moments if isinstance(v, torch.Tensor))]
    return sum(tensor.nbytes for tensor in tensors) + OVERHEAD


def _conditions(trainer: Any) -> dict[str, Any]:
    return conditions(World.current()) | {
        "micro_batch_size": trainer.args.per_device_train_batch_size,
        "device": trainer.args.device.type,
        ROWS: trainer.rows_hash,
    }


def checkpoint_to_resume(folder: Path, trainer: Any, keeping: CheckpointConfig, accept_changes: bool) -> Path | None:
    """The newest checkpoint that is whole, as the main process finds it; None: begin. Half-written ones are removed.

    Raises:
        UserError: there are some, but every one is damaged, or the one was made with other rows.
    """

    def find() -> Path | None:
        for partial in folder.glob("checkpoint-*"):
            shutil.rmtree(partial, ignore_errors=True)
        good = last_good(folder, (FORMAT,))
        if good is not None:
            tidy(good, keeping)
            _check_conditions(good, _conditions(trainer), accept_changes)
        return good

    good = World.current().main_finds(find)
    if good is not None:
        log.warning("going on from %s", good)
    return good


def _check_conditions(good: Path, now: dict[str, Any], accept_changes: bool) -> None:
    """Of what it was made with and what it goes on with; older checkpoints do not say all of it."""
    file = good / CONDITIONS
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        now = {key: value for key, value in now.items() if key in before or key != ROWS}
        check_same(good, differences(before, now), accept_changes)
