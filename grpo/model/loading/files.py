"""The files of a model's weights, as transformers would choose them, and what their headers say: no weight is read."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from grpo.errors import UserError, first_line
from grpo.model.loading.path import is_gguf

INDEX = "model.safetensors.index.json"
WHOLE = ("model.safetensors", INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")
POINTER = b"version https://git-lfs"


def local_folder(model: str) -> Path | None:
    """Where the files of a model lie: its folder, what a .gguf file is unpacked to, or what the hub's cache holds of
    it; None when it holds nothing."""
    from huggingface_hub import try_to_load_from_cache

    if Path(model).is_dir():
        return Path(model)
    if is_gguf(model):
        from grpo.model.loading.gguf import unpacked

        return unpacked(model) if Path(model).is_file() else None
    with suppress(ValueError):  # no name that the hub could have
        for name in ("config.json", "adapter_config.json"):
            if isinstance(cached := try_to_load_from_cache(model, name), str):
                return Path(cached).parent
    return None


def weight_files(model: str | Path, config: Any = None) -> list[Path]:
    """What transformers reads of the weights of this folder or hub name, whose files are fetched.

    Raises:
        UserError: there is none, one is missing, empty or not the weights; or there are two models.
    """
    from transformers.modeling_utils import _get_resolved_checkpoint_files

    named = {"transformers_explicit_filename": getattr(config, "transformers_weights", None)}
    whole = {"variant": None, "gguf_file": None, "use_safetensors": None, "user_agent": None, "is_remote_code": False}
    try:
        found, _ = _get_resolved_checkpoint_files(str(model), **whole, **named)
        files = [Path(name) for name in found or ()]
    except OSError as error:
        raise UserError(f"its weights cannot be found: {first_line(error)}") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"the index of its weights cannot be read: {first_line(error, typed=True)}") from error
    for file in files:
        refuse_placeholder(file)
    _refuse_two_models(files)
    return files


def refuse_placeholder(file: Path) -> None:
    """
    Raises:
        UserError: it is not there, empty, or stands for what is elsewhere.
    """
    if not file.is_file():
        raise UserError(f"{file.name} is missing, which the index of its weights names: copy the whole folder again")
    with file.open("rb") as stream:
        head = stream.read(len(POINTER))
    if head == POINTER:
        raise UserError(f"{file.name} is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`")
    if not head:
        raise UserError(f"{file.name} is empty: copy it again")


def _refuse_two_models(files: Sequence[Path]) -> None:
    """transformers reads model.safetensors, vLLM what the index beside it names."""
    index = files[0].with_name(INDEX)
    if [file.name for file in files] != ["model.safetensors"] or not index.is_file():
        return
    shards = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
    if shards != {"model.safetensors"}:
        raise UserError(f"it holds two models, model.safetensors and the shards of {INDEX}: move one of them away")


def outline(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The tensors of the files by name, with their shapes and types and without their values.

    Raises:
        UserError: a file is damaged, or no weights; or two files hold different ones of one name.
    """
    from transformers.modeling_utils import load_state_dict

    tensors: dict[str, torch.Tensor] = {}
    places: dict[str, Path] = {}
    for file in files:
        try:
            held = load_state_dict(str(file), map_location="meta")
        except pickle.UnpicklingError as error:
            problem = f"{file.name} is damaged, or holds more than weights, which is never run"
            raise UserError(f"{problem}: save the model again as safetensors") from error
        except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
            raise UserError(f"{file.name} is damaged or cut short ({first_line(error)}): copy it again") from error
        named = held.items() if isinstance(held, dict) else ()
        if not named or not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in named):
            raise UserError(f"{file.name} holds other things than weights by name: save the model again")
        for name in sorted(tensors.keys() & held.keys()):
            first, second = (tensor for _, tensor in values((places[name], file), (name,)))
            if not torch.equal(first, second):
                raise UserError(f"{name} is one in {places[name].name} and another in {file.name}: leave one of them")
        tensors |= held
        places |= dict.fromkeys(held, file)
    return tensors


def values(files: Sequence[Path], names: Sequence[str] | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of the files; `names`: of these alone."""
    from transformers.modeling_utils import load_state_dict

    for file in files:
        if file.suffix != ".safetensors":
            held = load_state_dict(str(file))
            yield from ((name, held[name]) for name in held if names is None or name in names)
            continue
        with safe_open(file, framework="pt") as stream:
            held = list(stream.keys())
            yield from ((name, stream.get_tensor(name)) for name in held if names is None or name in names)


def refuse_no_numbers(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """
    Raises:
        UserError: a weight is NaN or infinite.
    """
    bad = sorted(name for name, tensor in tensors if tensor.is_floating_point() and not tensor.isfinite().all())
    if bad:
        more = f" and {len(bad) - 1} more weights are" if len(bad) > 1 else " is"
        raise UserError(f"{bad[0]}{more} not finite (NaN or infinite): the training that made it has failed")
