"""Lineage: what a stage was made from, hashed, so that a changed config, input or parent is noticed.

`stage.json` is written when a stage begins, `manifest.json` when it is done; both hold the same hash. It covers the
stage's own settings, the contents of its local data files and its parents' hashes; not paths, timings or logging.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from grpo.config import DataConfig
from grpo.errors import UserError
from stages.config import RecipeConfig

PACKAGES = ("torch", "transformers", "trl", "tokenizers", "numpy", "accelerate", "datasets")
PROJECT = "grpo"
IRRELEVANT = ("checkpoint",)  # how often a stage saves changes nothing of what it computes


@dataclass(frozen=True)
class Lineage:
    """What determines a stage's result."""

    settings: dict[str, Any]  # {"seed", "engine.kind", "runtime.dtype", "<section>.<key>": value}
    inputs: dict[str, str]  # {local data file: hash of its content}
    parents: dict[str, str]  # {stage key or "init": hash}

    @property
    def hash(self) -> str:
        # Names of files are left out: a moved file is the same input.
        return digest([self.settings, sorted(self.inputs.values()), self.parents])


def digest(value: Any) -> str:
    """Short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def flatten(value: Any, prefix: str) -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists stay whole."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def stage_settings(config: RecipeConfig, key: str) -> dict[str, Any]:
    """The slice of the config that a stage depends on, by key path."""
    section = getattr(config, key).model_dump(mode="json")
    for name in IRRELEVANT:
        section.pop(name, None)
    return {
        "seed": config.seed,
        "engine.kind": config.engine.kind,
        "runtime.dtype": config.runtime.dtype,
        **flatten(without_paths(section), key),
    }


def without_paths(section: Any) -> Any:
    """Names of local data files are not settings: their contents are hashed as inputs."""
    if isinstance(section, dict):
        return {
            key: "(file)" if key == "path" and isinstance(item, str) and Path(item).is_file() else without_paths(item)
            for key, item in section.items()
        }
    return [without_paths(item) for item in section] if isinstance(section, list) else section


def input_hashes(section: BaseModel) -> dict[str, str]:
    """Content hashes of the local files that a section's data come from."""
    files = [Path(data.path) for data in _data_configs(section) if data.path is not None]
    return {str(file): file_hash(file) for file in files if file.is_file()}


def _data_configs(value: Any) -> Iterator[DataConfig]:
    if isinstance(value, DataConfig):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _data_configs(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _data_configs(item)


def file_hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


def model_hash(model: str) -> str:
    """Identity of a model that no stage of this run made: its manifest's hash, its files, or its hub name."""
    folder = Path(model)
    if not folder.is_dir():
        return digest(["hub", model])
    manifest = folder.parent / "manifest.json"
    if manifest.is_file():
        return str(read_json(manifest)["hash"])
    return digest([(file.name, file_hash(file)) for file in sorted(folder.iterdir()) if file.is_file()])


def changes(old: Mapping[str, Any], new: Lineage) -> list[str]:
    """What differs between a recorded stage and the lineage it would have now, one phrase each."""
    found = _differences(old["settings"], new.settings)
    before, after = sorted(old["inputs"].values()), sorted(new.inputs.values())
    if before != after:
        names = [name for name, value in new.inputs.items() if value not in before] or list(old["inputs"])
        found.append(f"contents of {', '.join(names)}")
    return found + [f"parent {change}" for change in _differences(old["parents"], new.parents)]


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    keys = [*new, *(key for key in old if key not in new)]
    missing = "(not set)"
    return [
        f"{key}: {old.get(key, missing)} -> {new.get(key, missing)}"
        for key in keys
        if old.get(key, missing) != new.get(key, missing)
    ]


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file of a run folder; damage is the user's to know."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"'{file}': not valid JSON ({error}); rerun its stage with --from") from error
    if not isinstance(value, dict):
        raise UserError(f"'{file}': expected a JSON object")
    return value


def versions() -> dict[str, str | None]:
    """Versions of the packages that results depend on; null when not installed."""
    return {name: _version(name) for name in (*PACKAGES, PROJECT)}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
