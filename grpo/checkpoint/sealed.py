"""Sealed folders: there whole, checksummed and on the disk, or not at all.

Files are written beside the target and flushed; their sha256 sums go into `manifest.json`, the last file written; then
the folder is renamed into place and the rename flushed. What the disk does not take is an OSError. Nothing of this ever
loads a pickle.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from grpo.system.files import as_os_error, flush, write_text
from grpo.system.fingerprint import checksum
from grpo.system.records import sealed_text

MANIFEST = "manifest.json"
VERSION = "version of this program"


@contextmanager
def sealed_folder(target: Path, form: int) -> Iterator[Path]:
    """A new folder to fill with files; becomes `target`, in the place of what may be there, when the block ends.

    `form`: the version of the folder's layout. After an error nothing is left of it.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        seal_as(partial, target, form)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def seal_as(partial: Path, target: Path, form: int) -> None:
    """The folder `partial`, of files that anyone wrote, becomes `target`, in the place of what may be there."""
    aside = target.with_name(f".{target.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    seal(partial, form)
    if target.exists():
        os.rename(target, aside)
    os.replace(partial, target)
    flush(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def write_tensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """A safetensors file."""
    try:
        save_file(dict(tensors), file)
    except SafetensorError as error:
        raise as_os_error(error, file) from error


def seal(folder: Path, form: int) -> None:
    """Flush every file and write the manifest of their sizes and sums."""
    files = {}
    for file in sorted(folder.iterdir()):
        flush(file)
        files[file.name] = {"bytes": file.stat().st_size, "sha256": checksum(file)}
    write_text(folder / MANIFEST, sealed_text({"format": form, "files": files}, 1))


def damage(folder: Path, *forms: int) -> str | None:
    """What is wrong with a folder that `sealed_folder` made, by the file's name; None: every byte is as it was written.
    `forms`: the versions of its layout that can be read."""
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
        content = json.loads(text)
        whole = text == sealed_text(content, 1)
    except OSError as error:
        return f"'{MANIFEST}': {error.strerror}"
    except (ValueError, AttributeError, RecursionError):
        whole = False
    if not whole:
        return f"'{MANIFEST}' was changed or cut short"
    if content["format"] not in forms:
        age = "an older" if content["format"] < min(forms) else "a newer"
        return f"'{MANIFEST}': of {age} {VERSION}"
    damaged = (_file_damage(folder / name, written) for name, written in content["files"].items())
    return next(filter(None, damaged), None)


def _file_damage(file: Path, written: Mapping[str, Any]) -> str | None:
    try:
        size = file.stat().st_size
        if size != written["bytes"]:
            return f"'{file.name}' has {size:,} bytes instead of {written['bytes']:,}"
        return None if checksum(file) == written["sha256"] else f"'{file.name}' has another checksum than when written"
    except OSError as error:
        return f"'{file.name}': {error.strerror}"
