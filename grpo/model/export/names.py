"""The names that weights have in a checkpoint, where the model in memory has others: experts in one tensor, for one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

import torch

from grpo.model.adapter import merged_names

Named = Iterable[tuple[str, torch.Tensor]]


def kept_names(model: Any) -> list[str]:
    """Names in memory of what a checkpoint holds: not those of weights that are tied to another."""
    ignored = set(model._keys_to_ignore_on_save or ())
    held = dict(model.named_parameters(remove_duplicate=False))
    ignored.update(name for name, source in model.all_tied_weights_keys.items() if held.get(name) is held.get(source))
    return [name for name in merged_names(model) if name not in ignored]


def as_in_checkpoint(model: Any, names: Iterable[str], tensors: Named) -> Iterator[tuple[str, torch.Tensor]]:
    """`tensors`, which have `names` in memory, under their names in a checkpoint, split and merged as there.

    It is transformers' `revert_weight_conversion`, but for one group of tensors after the other: what belongs together
    is held, not the whole model.
    """
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    transforms = _to_checkpoint(model)
    renamings = [entry for entry in transforms if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in transforms if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    places = {}  # name in memory: (name in the checkpoint or the first of several, what of a converter it is)
    for name in sorted(names, key=dot_natural_key):
        places[name] = rename_source_key(name, renamings, converters, reverse=True)
    groups: dict[str, dict[str, Any]] = {}
    for name, (target, _) in places.items():
        groups.setdefault(target, {})[name] = None
    for name, tensor in tensors:
        if name not in places:
            continue
        target, pattern = places[name]
        group = groups[target]
        group[name] = tensor
        if any(held is None for held in group.values()):
            continue
        if pattern is None:
            yield target, tensor
        else:
            converter = deepcopy(by_pattern[pattern])
            for member, held in group.items():
                converter.add_tensor(target, member, places[member][1], held)
            for result, value in converter.convert(target, model=model, config=model.config).items():
                yield result, value[0] if isinstance(value, list) else value
        group.update(dict.fromkeys(group))


def _to_checkpoint(model: Any) -> list[Any]:
    """What turns the names in memory into those of the checkpoint it was read from, or would be."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange

    transforms = getattr(model, "_weight_conversions", None)
    if transforms is None:  # never loaded; a prefix that was never there is not added
        known = get_model_conversion_mapping(model, add_legacy=False)
        transforms = [entry for entry in known if not isinstance(entry, PrefixChange)]
    return [entry.reverse_transform() for entry in reversed(transforms)]
