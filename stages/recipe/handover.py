"""What a stage hands to the next: its model, whole, on the disk, and still the same when it is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from grpo.errors import UserError
from grpo.system.files import flush_folder
from grpo.system.world import World
from stages.recipe.lineage import check_unchanged, model_files, read_json


def sealed(folder: Path) -> dict[str, str]:
    """Hashes of the files of a stage's model, which are on the disk and can be read; of the main process, for all.

    Raises:
        UserError: a file of weights is not whole.
    """
    return World.current().main_finds(lambda: _sealed(folder / "model"))


def _sealed(model: Path) -> dict[str, str]:
    flush_folder(model)
    _check_readable(model)
    return model_files(model)


def check_sealed(folder: Path, files: Mapping[str, str] | None, key: str) -> None:
    """Is the model of stage `key` what the stage left? `files`: what `sealed` gave; None: an older version did not.

    Raises:
        UserError: a file was edited, damaged or removed.
    """
    World.current().main_finds(lambda: check_unchanged(folder, files, key))


def check_parent(folder: Path, key: str) -> None:
    """`check_sealed` of a finished stage, by its manifest."""
    check_sealed(folder, read_json(folder / "manifest.json").get("model_files"), key)


def _check_readable(model: Path) -> None:
    for file in sorted(model.rglob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"'{file}' cannot be read back ({error}): see whether the disk is full or failing, and start again"
            ) from error
