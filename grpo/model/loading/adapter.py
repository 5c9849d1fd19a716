"""A folder that holds an adapter (LoRA and its kin) and no model: its base model, and how it is put onto that."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from grpo.errors import UserError, describe, first_line
from grpo.model.loading.files import WHOLE, local_folder, refuse_no_numbers, refuse_placeholder, values
from grpo.model.loading.path import is_gguf, is_local

ADAPTER = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
LIMIT = 1e-3  # relative, of logits: rounding gives 1e-5


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


def _read(adapter: str) -> tuple[Path, dict[str, Any]]:
    """Where its files lie, and what its config says."""
    folder = local_folder(adapter)
    assert folder is not None
    try:
        return folder, dict(json.loads((folder / ADAPTER).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"adapter '{adapter}': {ADAPTER} cannot be read: {first_line(error)}") from error


def base_of(adapter: str, above: frozenset[Path] = frozenset()) -> str:
    """The model that the adapter was trained on: a relative path is looked for in the adapter's folder first, then
    here. `above`: folders of adapters that lie on this one.

    Raises:
        UserError: it is not there, or an adapter that lies on itself.
    """
    folder, settings = _read(adapter)
    name = settings.get("base_model_name_or_path")
    if not name or not isinstance(name, str):
        raise UserError(f"adapter '{adapter}': base_model_name_or_path in {ADAPTER} is empty: put its base model there")
    near = next((place for place in (folder / name, Path(name)) if place.exists()), None)
    if near is None:
        if is_local(name):
            raise UserError(f"adapter '{adapter}': its base model '{name}' is not there: mend the path in {ADAPTER}")
        return name
    base, above = near.resolve(), above | {folder.resolve()}
    if base in above:
        raise UserError(f"adapter '{adapter}': it names itself as its base model in {ADAPTER}")
    if is_adapter(str(base)):
        base_of(str(base), above)
    return str(base)


def layers(model: str) -> list[str]:
    """The model and what it lies on, adapter by adapter."""
    return [model, *(layers(base_of(model)) if is_adapter(model) else ())]


def whole_of(model: str) -> str:
    """The model whose config and weights are meant: itself, or what an adapter lies on, however many there are; of a
    .gguf file its folder."""
    if is_gguf(model):
        return str(local_folder(model) or model)
    return whole_of(base_of(model)) if is_adapter(model) else model


def tokenizer_of(model: str) -> str:
    """Where its tokenizer lies: an adapter that brings none has its base model's."""
    folder = local_folder(model)
    own = folder is not None and any((folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json"))
    if not own and is_adapter(model):
        return tokenizer_of(base_of(model))
    return str(folder) if is_gguf(model) else model


def refuse_adapter(model: str) -> None:
    """
    Raises:
        UserError: vLLM would have to read it.
    """
    if is_adapter(model):
        problem = f"model '{model}': it is an adapter, and vLLM reads whole models only"
        raise UserError(f"{problem}: take engine=local, or what `grpo run --until base` leaves in 0-base/model")


@torch.no_grad()
def merged(model: Any, adapter: str) -> Any:
    """The model with the adapter in its weights.

    Raises:
        UserError: a part of the adapter is missing or finds no place, or it cannot be merged; or merged it would be
            another model: of two layers that share one weight, the adapter is on one.
    """
    adapted = _put_on(model, adapter)
    ids = torch.arange(1, 17)[None] * 7919 % model.get_input_embeddings().weight.shape[0]
    before = adapted(input_ids=ids, use_cache=False).logits
    whole = adapted.merge_and_unload(safe_merge=True)
    after = whole(input_ids=ids, use_cache=False).logits
    whole.all_tied_weights_keys = whole.get_expanded_tied_weights_keys(all_submodels=True)  # peft may untie them
    shared = whole.all_tied_weights_keys.items()
    apart = [name for name, other in shared if not torch.equal(whole.get_parameter(name), whole.get_parameter(other))]
    if apart or not (before - after).norm() <= LIMIT * before.norm():
        problem = f"adapter '{adapter}': merged into its base model it would be another one"
        raise UserError(f"{problem}: it changes a layer that shares its weight with another (tied embeddings)")
    return whole


def _put_on(model: Any, adapter: str) -> Any:
    """The model with the adapter on it."""
    import peft

    folder, given = _read(adapter)
    files = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not files:
        raise UserError(f"adapter '{adapter}': there are no weights beside its {ADAPTER} ({' or '.join(WEIGHTS)})")
    for file in files:
        refuse_placeholder(file)
    try:
        settings = peft.PeftConfig.from_pretrained(str(folder))
        # peft leaves out what it does not know; what is not set is nothing lost.
        if unknown := sorted(name for name, value in given.items() if value and not hasattr(settings, name)):
            problem = f"adapter '{adapter}': {ADAPTER} sets {unknown[0]}, which this peft does not know"
            raise UserError(f"{problem}: update peft, or merge the adapter where it was made")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            repeated = getattr(settings, "layer_replication", None)
            adapted = peft.PeftModel(model, settings)
            if repeated or not hasattr(adapted.base_model, "merge_and_unload"):
                kind = "layer_replication" if repeated else settings.peft_type.value
                raise UserError(f"adapter '{adapter}': {kind} cannot be merged into its base model")
            report = adapted.load_adapter(str(folder), "default", torch_device="cpu", autocast_adapter_dtype=False)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"adapter '{adapter}': does not fit its base model: {describe(error)}") from error
    for names, what in ((report.missing_keys, "are missing from"), (report.unexpected_keys, "find no place from")):
        if names:
            raise UserError(f"adapter '{adapter}': {len(names)} weights {what} its file, e.g. {sorted(names)[0]}")
    refuse_no_numbers(values(files))
    return adapted.eval()
