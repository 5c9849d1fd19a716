"""What a stage hands to the next: its model or its data, whole, on the disk, and still the same when it is used.

A stage that only makes data hands on the model that it was given: its manifest names it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from grpo.errors import UserError
from grpo.system.files import flush_folder
from grpo.system.world import World
from stages.recipe.lineage import check_unchanged, model_files, read_json
from stages.recipe.table import STAGES


def sealed(folder: Path, leaves: str = "model") -> dict[str, str]:
    """Hashes of the files of a stage's model or data, which are on the disk and can be read; of the main process, for
    all.

    Raises:
        UserError: a file of weights is not whole.
    """
    return World.current().main_finds(lambda: _sealed(folder / leaves))


def _sealed(folder: Path) -> dict[str, str]:
    flush_folder(folder)
    _check_readable(folder)
    return model_files(folder)


def check_sealed(folder: Path, record: Mapping[str, Any], key: str) -> None:
    """Is what stage `key` left still that? `record`: the hashes that `sealed` gave; an older version kept none.

    Raises:
        UserError: a file was edited, damaged or removed.
    """
    leaves = STAGES[key].leaves
    World.current().main_finds(lambda: check_unchanged(folder, record.get(f"{leaves}_files"), key, leaves))


def check_parent(folder: Path, key: str) -> None:
    """`check_sealed` of a finished stage, by its manifest."""
    check_sealed(folder, read_json(folder / "manifest.json"), key)


def passed_on(model: str, folder: Path) -> str:
    """How a stage in `folder` that only makes data names the model that it was given: one of its own run by the way
    there, as the run may move."""
    file, there = Path(model).absolute(), folder.absolute()
    if not file.exists():
        return model  # of the hub
    return os.path.relpath(file, there) if file.is_relative_to(there.parent) else str(file)


def handed_on(folder: Path) -> Path:
    """The model that a finished stage hands on: its own, or, where it only makes data, the one that it was given."""
    if (folder / "model").is_dir():
        return folder / "model"
    given = str(read_json(folder / "manifest.json").get("model", "model"))
    return Path(os.path.normpath(folder / given)) if given == "model" or given.startswith("..") else Path(given)


def given_model(model: str) -> str:
    """What a command takes for a model: of the folder of a stage that only made data, the model that it hands on."""
    folder = Path(model)
    is_stage = (folder / "manifest.json").is_file() and (folder / "stage.json").is_file()
    return str(handed_on(folder)) if is_stage and not (folder / "model").is_dir() else model


def _check_readable(model: Path) -> None:
    for file in sorted(model.rglob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"'{file}' cannot be read back ({error}): see whether the disk is full or failing, and start again"
            ) from error
