"""A folder that holds an adapter (LoRA and its kin) and no model: its base model, and how it is put onto that."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from grpo.errors import UserError, first_line
from grpo.model.loading.files import WHOLE, local_folder
from grpo.model.loading.path import is_local

ADAPTER = "adapter_config.json"


def is_adapter(model: str) -> bool:
    """
    Raises:
        UserError: it is a whole model as well, and one cannot tell which was meant.
    """
    folder = local_folder(model)
    if folder is None or not (folder / ADAPTER).is_file():
        return False
    whole = next((name for name in WHOLE if (folder / name).exists()), None)
    if whole:
        problem = f"model '{model}': it holds whole weights ({whole}) and an adapter ({ADAPTER})"
        raise UserError(f"{problem}, and one cannot tell which is meant: move one of them to a folder of its own")
    return True


def base_of(adapter: str) -> str:
    """The model that the adapter was trained on: a relative path is looked for in the adapter's folder first, then
    here.

    Raises:
        UserError: it is not there.
    """
    folder = local_folder(adapter)
    assert folder is not None
    try:
        name = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        problem = f"adapter '{adapter}': {ADAPTER} names no base_model_name_or_path"
        raise UserError(f"{problem} ({first_line(error, typed=True)})") from error
    if not name:
        raise UserError(f"adapter '{adapter}': base_model_name_or_path in {ADAPTER} is empty: put its base model there")
    near = next((place for place in (folder / name, Path(name)) if place.is_dir()), None)
    if near is not None and near.resolve() == folder.resolve():
        raise UserError(f"adapter '{adapter}': it names itself as its base model in {ADAPTER}")
    if near is None and is_local(name):
        raise UserError(f"adapter '{adapter}': its base model '{name}' is not there: mend the path in {ADAPTER}")
    return str(near or name)


def put_on(model: Any, adapter: str) -> Any:
    """The model with the adapter on it.

    Raises:
        UserError: a part of the adapter is missing or finds no place, or it cannot be merged.
    """
    import peft

    folder = local_folder(adapter)
    try:
        settings = peft.PeftConfig.from_pretrained(str(folder))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = peft.PeftModel(model, settings)
            report = adapted.load_adapter(str(folder), "default", torch_device="cpu", autocast_adapter_dtype=False)
    except Exception as error:
        text = " ".join(str(error).split("\n")[:2]) or type(error).__name__
        raise UserError(f"adapter '{adapter}': does not fit its base model: {' '.join(text.split())[:300]}") from error
    for names, what in ((report.missing_keys, "are missing from"), (report.unexpected_keys, "find no place from")):
        if names:
            raise UserError(f"adapter '{adapter}': {len(names)} weights {what} its file, e.g. {sorted(names)[0]}")
    if not hasattr(adapted.base_model, "merge_and_unload"):
        raise UserError(f"adapter '{adapter}': {settings.peft_type.value} cannot be merged into its base model")
    return adapted
