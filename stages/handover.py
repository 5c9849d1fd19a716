"""What a stage hands to the next: its model, whole, on the disk, and still the same when it is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from grpo.errors import UserError
from grpo.files import flush_folder
from grpo.parallel import World, is_main
from stages.manifest import file_hash, read_json


def sealed(folder: Path) -> dict[str, str]:
    """Hashes of the files of a stage's model, which are on the disk and can be read; of the main process, for all.

    Raises:
        UserError: a file of weights is not whole.
    """
    failure, files = None, {}
    if is_main():
        flush_folder(folder / "model")
        failure = _unreadable(folder / "model")
        files = _hashes(folder / "model") if failure is None else {}
    failure, files = World.current().gather((failure, files))[0]
    if failure is not None:
        raise UserError(failure)
    return files


def check_sealed(folder: Path, files: Mapping[str, str] | None, key: str) -> None:
    """Is the model of stage `key` what the stage left? `files`: what `sealed` gave; None: an older version did not.

    Raises:
        UserError: a file was edited, damaged or removed.
    """
    failure = _changed(folder, files, key) if is_main() and files is not None else None
    failure = World.current().gather(failure)[0]
    if failure is not None:
        raise UserError(failure)


def check_parent(folder: Path, key: str) -> None:
    """`check_sealed` of a finished stage, by its manifest."""
    check_sealed(folder, read_json(folder / "manifest.json").get("model_files"), key)


def _changed(folder: Path, files: Mapping[str, str], key: str) -> str | None:
    found = _hashes(folder / "model")
    names = [name for name in sorted(files.keys() | found.keys()) if files.get(name) != found.get(name)]
    if not names:
        return None
    what = "is gone" if names[0] not in found else "was not there" if names[0] not in files else "was changed"
    return (
        f"'{folder / 'model'}' is not what stage {key} left: '{names[0]}' {what}: put it back, rerun the stage with "
        f"grpo run --from {key}, or give the edited model to the next stage's script by --init from another folder"
    )


def _hashes(model: Path) -> dict[str, str]:
    return {str(file.relative_to(model)): file_hash(file) for file in sorted(model.rglob("*")) if file.is_file()}


def _unreadable(model: Path) -> str | None:
    for file in sorted(model.rglob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"'{file}' cannot be read back ({error}): see whether the disk is full or failing, and start again"
    return None
