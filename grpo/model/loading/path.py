"""What a model may be given as: its folder, its .gguf file, or a hub name. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from grpo.errors import UserError

UNFINISHED = "UNFINISHED"  # file beside weights whose config or tokenizer could not be written


def is_local(name: str) -> bool:
    """Whether a name can only be meant as a path: hub names have at most one slash, inside."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def is_gguf(model: str) -> bool:
    return Path(model).suffix.lower() == ".gguf" and not Path(model).is_dir()


def check_model(model: str) -> None:
    """A hub name is not looked up.

    Raises:
        UserError: a folder is not there, or not that of a model.
    """
    folder = Path(model)
    if folder.is_dir() and not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        hint = f"; did you mean '{folder / 'model'}'?" if (folder / "model" / "config.json").is_file() else ""
        raise UserError(f"model '{model}': not a model folder (no config.json in it){hint}")
    if (folder / UNFINISHED).is_file():
        raise UserError(f"model '{model}': not finished ({UNFINISHED} in it): run what was to write it again")
    if folder.is_file() and not is_gguf(model):
        raise UserError(f"model '{model}': a file; give the model's folder, a .gguf file or a hub name")
    if not folder.exists() and (is_local(model) or is_gguf(model)):
        raise UserError(f"model '{model}': no such {'file' if is_gguf(model) else 'folder'}")
