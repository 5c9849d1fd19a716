"""Weights in safetensors files, one part after the other, in the precision they came in."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch

from grpo.errors import UserError
from grpo.model.loading.files import outline, weight_files

log = logging.getLogger("grpo")

LIMIT = 5 * 10**9  # bytes of a file: what is held beside the model
SUFFIX = ".safetensors"
FLOATS = (torch.float32, torch.bfloat16, torch.float16)  # what is saved
Cast = Callable[[str, torch.Tensor], torch.Tensor]


def write_weights(tensors: Iterable[tuple[str, torch.Tensor]], folder: Path) -> torch.dtype:
    """One file, or several with an index, named as transformers names them. Returns the precision of most values."""
    from safetensors.torch import save_file

    parts: list[list[str]] = []
    values: Counter[torch.dtype] = Counter()
    size = 0
    for number, part in enumerate(_parts(tensors)):
        save_file(part, folder / f"part-{number}{SUFFIX}", metadata={"format": "pt"})
        parts.append(list(part))
        size += sum(tensor.nbytes for tensor in part.values())
        _count(values, part)
    names = ["model" + SUFFIX]
    if len(parts) > 1:
        names = [f"model-{number + 1:05d}-of-{len(parts):05d}{SUFFIX}" for number in range(len(parts))]
        places = {tensor: name for part, name in zip(parts, names, strict=True) for tensor in part}
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        (folder / f"model{SUFFIX}.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for number, name in enumerate(names):
        (folder / f"part-{number}{SUFFIX}").rename(folder / name)
    return values.most_common(1)[0][0]


def _count(values: Counter[torch.dtype], tensors: Mapping[str, torch.Tensor]) -> None:
    """Of each precision."""
    for tensor in tensors.values():
        if tensor.dtype in FLOATS:
            values[tensor.dtype] += tensor.numel()


def _parts(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[dict[str, torch.Tensor]]:
    """Tensors on the CPU, at most `LIMIT` bytes at a time, or a single one that is larger."""
    part: dict[str, torch.Tensor] = {}
    size = 0
    places: set[int] = set()
    for name, tensor in tensors:
        if part and size + tensor.nbytes > LIMIT:
            yield part
            part, size, places = {}, 0, set()
        held = tensor.cpu().contiguous()
        storage = held.untyped_storage()
        if storage.nbytes() != held.nbytes or storage.data_ptr() in places:  # a file takes no two in the same memory
            held = held.clone()
        places.add(held.untyped_storage().data_ptr())
        part[name] = held
        size += tensor.nbytes
    yield part


def casting(source: Path | None, choice: str) -> Cast:
    """Into the precision that is asked for; `auto`: that of each tensor in the model folder it came from."""
    if choice != "auto":
        return lambda name, tensor: _cast(name, tensor, getattr(torch, choice))
    given: dict[str, torch.Tensor] = {}
    try:
        given = outline(weight_files(source)) if source is not None else {}
    except UserError as error:  # whoever took them away while it was trained: what was trained is not lost with them
        log.warning("'%s' does not say any more what precision it came in, so float32 is saved: %s", source, error)
    values: Counter[torch.dtype] = Counter()
    _count(values, given)
    usual = values.most_common(1)[0][0] if values else torch.float32
    return lambda name, tensor: _cast(name, tensor, given[name].dtype if name in given else usual)


def _cast(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if tensor.dtype == dtype or tensor.dtype not in FLOATS or dtype not in FLOATS:
        return tensor
    cast = tensor.to(dtype)
    if dtype == torch.float16 and not cast.isfinite().all() and tensor.isfinite().all():
        log.warning("'%s' has values beyond float16 and is saved in %s", name, str(tensor.dtype).removeprefix("torch."))
        return tensor
    return cast
