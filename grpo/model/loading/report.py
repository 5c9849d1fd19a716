"""What of a model's files finds a place in the model, and what of the model finds nothing in its files.

transformers' own loading is run on the headers of the files, without the weights: what it would leave at random or
leave out is known before anything is read, and what a check says is what loading does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from grpo.errors import UserError
from grpo.model.loading.files import values

NAMED = 3  # weights that a message names one by one
# What transformers declares to leave out, and may: masks and rotary tables that it computes, heads that predict
# further tokens and are not trained here.
_COMPUTED = re.compile(r"inv_freq|\.(attn|attention)\.(masked_)?bias$|position_ids|\.version$")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@dataclass(frozen=True)
class Report:
    """Names of weights: in the model and not in its files, the reverse, and with (held, wanted) shapes."""

    missing: Collection[str] = ()
    unused: Collection[str] = ()
    misshapen: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    spare: Collection[str] = ()  # unused as well, but nothing is lost with them

    @property
    def heads(self) -> list[str]:
        """Of the spare ones those that were trained: they predict further tokens."""
        return sorted(name for name in self.spare if not _COMPUTED.search(name))

    def problem(self, kind: str, config: Any) -> str | None:
        """What is wrong, for a model of this class and its config.json; None when nothing is."""
        if added := _added(self.unused, set(self.missing)):
            return f"the names of {len(self.unused)} weights {added}: strip that and save it again"
        if self.unused and not self.missing and not self.misshapen and set(config.sub_configs) - {"text_config"}:
            groups = Counter(".".join(name.split(".")[:2]) for name in self.unused)
            lost = ", ".join(f"{part}.* ({count} weights)" for part, count in sorted(groups.items()))
            alone = "AutoModelForCausalLM.from_pretrained(MODEL).save_pretrained(FOLDER)"
            return (
                f"{lost} would be lost, {kind} is text alone: if that is meant, save it so, {alone}, and its tokenizer"
            )
        parts = []
        if self.missing:
            parts.append(f"{_named(self.missing)} missing from its files and would be random")
        if self.unused:
            parts.append(f"{_named(self.unused)} in its files and would be lost, {kind} has no such")
        if self.misshapen:
            name, (held, wanted) = min(self.misshapen.items())
            parts.append(f"{_named(self.misshapen)} of another shape: {name} is {held} and config.json says {wanted}")
        return f"{'; '.join(parts)}: its config.json and its files must be of one model" if parts else None


def _added(names: Collection[str], wanted: Collection[str]) -> str | None:
    """What a wrapper (torch.compile, DistributedDataParallel, FSDP, peft) has put into the names of what is wanted."""
    for part in dict.fromkeys(part for name in sorted(names)[:1] for part in name.split(".")[:-1]):
        if all(".".join(word for word in name.split(".") if word != part) in wanted for name in names):
            begun = all(name.startswith(f"{part}.") and f".{part}." not in name for name in names)
            return f"{'begin with' if begun else 'hold'} '{part}.'"
    prefixes = (name.removesuffix(other) for name in names for other in wanted if name.endswith(f".{other}"))
    return next((f"begin with '{prefix}'" for prefix in prefixes), None)


def _named(names: Collection[str]) -> str:
    """ "3 weights (a, b, c) are"."""
    shown = ", ".join(sorted(names)[:NAMED]) + (", ..." if len(names) > NAMED else "")
    return f"{len(names)} weights ({shown}) are" if len(names) > 1 else f"1 weight ({shown}) is"


@torch.no_grad()
def compare(model: Any, tensors: Mapping[str, torch.Tensor], files: Sequence[Path]) -> Report:
    """What would become of these tensors, in a model on the meta device.

    Raises:
        UserError: one holds codes instead of numbers, or two tied ones differ, of which one would be lost.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.modeling_utils import LoadStateDictConfig

    mapping = get_model_conversion_mapping(model)
    places = _places(model, tensors, mapping)
    _refuse_codes(model, tensors, places)
    _refuse_untied(model, places, files)
    settings = LoadStateDictConfig(device_map={"": "meta"}, dtype=torch.float32, weight_mapping=mapping)
    info, _ = model._load_pretrained_model(model, dict(tensors), None, settings)
    unused = set(info.unexpected_keys)
    model.tie_weights(missing_keys=info.missing_keys, recompute_mapping=False)
    model._adjust_missing_and_unexpected_keys(info)
    misshapen = {name: (tuple(held), tuple(wanted)) for name, held, wanted in info.mismatched_keys}
    missing = {*info.missing_keys, *info.conversion_errors} - misshapen.keys()
    layers = getattr(model.config.get_text_config(), "num_hidden_layers", 0)
    spare = {name for name in unused - set(info.unexpected_keys) if _is_spare(name, layers)}
    return Report(missing, unused - spare, misshapen, spare)


def _is_spare(name: str, layers: int) -> bool:
    layer = _LAYER.search(name)
    return bool(re.search(r"(^|\.)mtp", name) or _COMPUTED.search(name)) or (
        layer is not None and int(layer[1]) >= layers
    )


def _places(model: Any, names: Iterable[str], mapping: Sequence[Any]) -> dict[str, str]:
    """The model's own name for each name in the files."""
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    state = model.state_dict()
    prefix = model.base_model_prefix
    return {name: rename_source_key(name, renamings, converters, prefix, state)[0] for name in names}


def _refuse_codes(model: Any, tensors: Mapping[str, torch.Tensor], places: Mapping[str, str]) -> None:
    """Whole numbers or 8 bits are cast to weights without a word, and are none without their scales."""
    state = model.state_dict()
    for name, tensor in tensors.items():
        place = state.get(places[name])
        coded = not tensor.is_floating_point() or tensor.element_size() == 1
        if coded and place is not None and place.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{name} is {kind} in its files, and no quantization_config in config.json says what of")


def _refuse_untied(model: Any, places: Mapping[str, str], files: Sequence[Path]) -> None:
    """Two weights that config.json ties, and that differ in the files: engines disagree which of them is meant."""
    held = {place: name for name, place in places.items()}
    for target, source in model.all_tied_weights_keys.items():
        if target in held and source in held:
            pair = dict(values(files, (held[target], held[source])))
            if not torch.equal(*pair.values()):
                problem = f"config.json ties {target} to {source}, and its files hold another {target}"
                raise UserError(f"{problem}: set tie_word_embeddings to false in config.json, or leave it out")
