"""Lineage: what a stage was made from, hashed, so that a changed config, input or parent is noticed.

`stage.json` is written when a stage begins, `manifest.json` when it is done; both hold the same hash. It covers the
stage's own settings, the contents of its local data files and its parents' hashes; not paths, timings or logging.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo.config.section import flatten
from grpo.config.training import ABSENT
from grpo.data.folders import every_file
from grpo.errors import UserError
from grpo.model.loading.path import is_gguf
from grpo.system.fingerprint import changes, digest, file_hash
from grpo.system.records import Kind, read_record
from stages.recipe.config import BaseConfig, RecipeConfig, RLStageConfig
from stages.recipe.table import STAGES

# How often a stage saves and how it cuts its batches change nothing of what it computes: who runs out of memory may
# lower them and go on.
IRRELEVANT = ("checkpoint", "micro_batch_size", "micro_batch_tokens", "gradient_checkpointing")
KINDS: dict[str, Kind] = {  # of what is read of a record
    **dict.fromkeys(("settings", "inputs", "parents", "metrics"), dict),
    "hash": str,
    "seconds": (int, float),
    "evaluation_hash": (str, type(None)),
}


@dataclass(frozen=True)
class Lineage:
    """What determines a stage's result."""

    settings: dict[str, Any]  # {"seed", "engine.kind", "runtime.dtype", "<section>.<key>": value}
    inputs: dict[str, str]  # {local data file or model folder: hash of its content}
    parents: dict[str, str]  # {stage key or "init": hash}

    @property
    def hash(self) -> str:
        # Names of files are left out: a moved file is the same input.
        return digest([self.settings, sorted(self.inputs.values()), self.parents])


def stage_settings(config: RecipeConfig, key: str, known: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The slice of the config that a stage depends on, by key path. `known`: see `input_hashes`."""
    section = getattr(config, key)
    values = section.model_dump(mode="json")
    for part in (values, values.get("pretrain") or {}):
        for name in IRRELEVANT:
            part.pop(name, None)
    ((values.get("loss") or {}).get("distill") or {}).pop("urls", None)  # where it is served changes nothing
    for name in ("router_loss", "chat_template", "template_kwargs"):
        if not values.get(name):  # stages made before there was a choice stay what they are
            values.pop(name, None)
    flat = flatten(without_paths({key: values, **_guard(config, key)}, known))
    return {
        "seed": config.seed,
        "engine.kind": config.engine.kind,
        # Not where it is off: stages made before there was a choice stay what they are.
        **({"engine.ahead": True} if config.engine.ahead and isinstance(section, RLStageConfig) else {}),
        "runtime.dtype": config.runtime.dtype,
        **({} if config.runtime.save_dtype == "auto" else {"runtime.save_dtype": config.runtime.save_dtype}),
        **{path: item for path, item in flat.items() if (path.removeprefix(f"{key}."), item) not in ABSENT.items()},
    }


def _guard(config: RecipeConfig, key: str) -> dict[str, Any]:
    """What decides which rows the stage drops. Nothing where it drops none: such stages stay what they are."""
    decontaminate = config.evaluation.decontaminate
    section = getattr(config, key)
    adopted = isinstance(section, BaseConfig) and section.model is not None  # it has no rows
    if decontaminate is None or decontaminate.action != "drop" or adopted:
        return {}
    of_rows: Any = {"leak_check": True, "decontaminate": True, "math": {"data"}, "general": {"data"}}
    of_rows |= {"sets": {"__all__": {"data"}}} if config.evaluation.sets else {}
    return {"evaluation": config.evaluation.model_dump(mode="json", include=of_rows)}


def without_paths(section: Any, known: Mapping[str, str] | None = None) -> Any:
    """Names of local files and model folders are not settings: their contents are hashed as inputs."""
    if isinstance(section, dict):
        return {
            key: f"({kind})" if (kind := _kind(key, item, known or {})) else without_paths(item, known)
            for key, item in section.items()
        }
    return [without_paths(item, known) for item in section] if isinstance(section, list) else section


def stage_inputs(config: RecipeConfig, key: str, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """`input_hashes` of a stage, with what decides which of its rows are dropped."""
    return input_hashes({key: getattr(config, key).model_dump(mode="json"), **_guard(config, key)}, known)


def input_hashes(section: dict[str, Any], known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Content hashes of the local files and model folders that a section names.

    `known`: the inputs that the stage was begun with; one that is gone since counts as what it was.
    """
    known = known or {}
    hashes = {}
    for name, kind in sorted(set(_inputs(section, known))):
        if not Path(name).exists() and not every_file(name):
            hashes[name] = known[name]
        else:
            hashes[name] = model_hash(name) if kind == "folder" else data_hash(name)
    return hashes


def data_hash(path: str) -> str:
    """Of the content of a data file, or of the files of a folder or glob."""
    files = every_file(path)
    if len(files) == 1 and files[0] == Path(path).expanduser():
        return file_hash(files[0])
    return digest([(file.name, file_hash(file)) for file in files])


def _inputs(section: Any, known: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(name, kind) of each."""
    if isinstance(section, dict):
        for key, item in section.items():
            if kind := _kind(key, item, known):
                yield item, kind
            else:
                yield from _inputs(item, known)
    elif isinstance(section, list):
        for item in section:
            yield from _inputs(item, known)


def _kind(key: str, value: Any, known: Mapping[str, str]) -> str | None:
    """What a setting names: the "file" of local data, the "folder" of a model; None: neither."""
    if key not in ("path", "model", "chat_template") or not isinstance(value, str):
        return None
    gone = value in known and not Path(value).exists()
    if key != "model":
        return "file" if gone or every_file(value) else None
    return "folder" if gone or Path(value).is_dir() or (is_gguf(value) and Path(value).is_file()) else None


def model_hash(model: str) -> str:
    """Identity of a model that no stage of this run made: its manifest's hash, its file or files, or its hub
    name.

    Raises:
        UserError: it, or its manifest, is no longer what a stage of another run left.
    """
    folder = Path(model)
    if folder.is_file():
        return file_hash(folder)
    if not folder.is_dir():
        return digest(["hub", model])
    made = _stage_hash(folder)
    return made or digest([(file.name, file_hash(file)) for file in sorted(folder.iterdir()) if file.is_file()])


def _stage_hash(model: Path) -> str | None:
    """The hash in the manifest of the stage that left this model; None: no stage did. Another program may have a file
    of that name."""
    manifest = model.parent / "manifest.json"
    if model.name != "model" or not manifest.is_file():
        return None
    text = manifest.read_text(encoding="utf-8", errors="replace")
    if not all(f'"{key}": ' in text for key in ("stage", "hash", "parents")):
        return None
    content = read_json(manifest, "hash")
    check_unchanged(model.parent, content.get("model_files"), str(content.get("stage")))
    return str(content["hash"])


def check_unchanged(folder: Path, files: Mapping[str, str] | None, name: str, leaves: str = "model") -> None:
    """Is what stage `name` `leaves` what it left in its `folder`? `files`: hashes of them as they were; None: an older
    version kept none.

    Raises:
        UserError: a file was edited, damaged or removed.
    """
    if files is None:
        return
    there = model_files(folder / leaves)
    names = [name for name in sorted(files.keys() | there.keys()) if files.get(name) != there.get(name)]
    if names:
        what = "is gone" if names[0] not in there else "was not there" if names[0] not in files else "was changed"
        key = next((stage.key for stage in STAGES.values() if name in (stage.key, stage.folder)), name)
        or_else = ", or give the edited model to the next stage's script by --init from another folder"
        raise UserError(
            f"'{folder / leaves}' is not what stage {key} left: '{names[0]}' {what}: put it back, rerun the stage with "
            f"grpo run --from {key}{or_else if leaves == 'model' else ''}"
        )


def model_files(model: Path) -> dict[str, str]:
    """Hashes of the files of a model's folder."""
    return {str(file.relative_to(model)): file_hash(file) for file in sorted(model.rglob("*")) if file.is_file()}


def changed(old: Mapping[str, Any], new: Lineage) -> list[str]:
    """What differs between a recorded stage and the lineage it would have now, one phrase each."""
    phrases = list(changes(old["settings"], new.settings).values())
    before, after = sorted(old["inputs"].values()), sorted(new.inputs.values())
    if before != after:
        names = [name for name, value in new.inputs.items() if value not in before] or list(old["inputs"])
        phrases.append(f"contents of {', '.join(names)}")
    return phrases + [f"parent {phrase}" for phrase in changes(old["parents"], new.parents).values()]


def read_json(file: Path, *needed: str) -> dict[str, Any]:
    """A JSON record of a run folder, with these keys in it; damage is the user's to know."""
    return read_record(file, "rerun its stage with --from", {key: KINDS[key] for key in needed})
