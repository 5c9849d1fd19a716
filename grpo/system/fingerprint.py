"""What tells that something a run goes on from is no longer what it was: hashes, versions, and the differences.

They are kept in checkpoints, manifests and data files: the hash of the same thing must come out the same for ever.
"""

import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

SHORT = 16  # hexadecimal digits, where people read them too
PACKAGES = ("torch", "transformers", "trl", "tokenizers", "numpy", "accelerate")  # that every result depends on


def checksum(content: Path | str) -> str:
    """The whole sha256 of a file, read anew, or of a text."""
    if isinstance(content, str):
        return hashlib.sha256(content.encode()).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def texts_hash(texts: Iterable[str]) -> str:
    """Short hash of texts one after the other, as of all of them in one."""
    whole = hashlib.sha256()
    for text in texts:
        whole.update(text.encode())
    return whole.hexdigest()[:SHORT]


def digest(value: Any) -> str:
    """Short hash of a value, as JSON where it is that; of other objects as they print, but for their address."""
    text = json.dumps(value, sort_keys=True, default=lambda item: re.sub(r" at 0x[0-9a-f]+", "", str(item)))
    return texts_hash([text])


def file_hash(file: Path) -> str:
    """Short hash of the content. Weights are gigabytes, and a run asks for their hash at every stage: read once while
    size and time stay."""
    state = file.stat()
    return _file_hash(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1024)
def _file_hash(file: Path, size: int, changed: int) -> str:
    return checksum(file)[:SHORT]


def model_identity(model: str) -> str:
    """A folder's files (a frozen model under an adapter, and the reference, are read from it again), those of a .gguf
    file, or a hub name."""
    folder = Path(model)
    if folder.is_file():
        return checksum(folder)
    if not folder.is_dir():
        return model
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return digest([[file.name, checksum(file)] for file in files])


def versions(names: Iterable[str]) -> dict[str, str | None]:
    """Of installed packages; None: not installed."""
    return {name: version(name) for name in names}


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """Its name where Linux tells it: kernels are chosen by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """{key: "key: old -> new"} of what differs between two records, in the order of the new one."""
    missing = "(not set)"
    keys = [*new, *(key for key in old if key not in new)]
    pairs = {key: (old.get(key, missing), new.get(key, missing)) for key in keys}
    return {key: f"{key}: {before} -> {after}" for key, (before, after) in pairs.items() if before != after}
