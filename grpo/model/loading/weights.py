"""Weights from a folder or a hub name. They are fp32 masters where they are trained; half precision is autocast.

What is brought is compared with what comes of it: a weight that the files lack, that finds no place or that is no
number is a `UserError` that names it. An adapter is merged into its base model when it is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from grpo.errors import UserError, first_line
from grpo.model.loading.adapter import base_of, is_adapter, merged, whole_of
from grpo.model.loading.exact import with_whole_attention
from grpo.model.loading.files import local_folder, outline, refuse_no_numbers, values, weight_files
from grpo.model.loading.generation import mend_generation, read_generation
from grpo.model.loading.path import check_model
from grpo.model.loading.quantised import refuse_quantised
from grpo.model.loading.report import Report, compare
from grpo.model.loading.settings import causal_class, empty_model, read_config

log = logging.getLogger("grpo")


@contextmanager
def loading(model: str, failure: str = "cannot be loaded", what: str = "model") -> Iterator[None]:
    """A `UserError` when the name is not a model's, or it cannot be loaded, whatever the reason."""
    check_model(model)
    try:
        with silent():
            yield
    except UserError as error:
        text = str(error)
        named = text.startswith(("model '", "adapter '", "reward model '"))
        raise UserError(text if named else f"{what} '{model}': {text}") from error
    except Exception as error:
        typed = not isinstance(error, OSError | ValueError | ImportError | RuntimeError)
        raise UserError(f"{what} '{model}': {failure}: {first_line(error, typed=typed)}") from error


@contextmanager
def silent() -> Iterator[None]:
    """transformers' own report of a loading is a bar and a table of many lines; ours says what matters in one."""
    from transformers.utils import logging as theirs

    before, bar = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(before)
        if bar:
            theirs.enable_progress_bar()


def load_model(model: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """A causal LM, in eval mode: dropout would make pi_theta differ from the policy that sampled. Training wants fp32
    masters.

    Raises:
        UserError: it cannot be loaded whole.
    """
    with loading(model):
        if is_adapter(model):
            loaded = merged(load_model(base_of(model), torch.device("cpu")), model)
            for parameter in loaded.parameters():  # the sum is rounded once; buffers keep their precision
                parameter.requires_grad_(True).data = parameter.data.to(dtype)
        else:
            loaded = _load(model, dtype)
        refuse_no_numbers(loaded.named_parameters())
    mend_generation(loaded)
    return with_whole_attention(loaded).to(device).eval()


def _load(model: str, dtype: torch.dtype) -> Any:
    heads = examine(model).heads if local_folder(model) is not None else []
    if heads:
        text = "'%s': %d weights of heads for further tokens are left out, neither trained nor saved: %s for one"
        log.warning(text, model, len(heads), heads[0])
    config = read_config(model)
    loaded, report = from_files(causal_class(config), model, config, dtype)
    refuse(report.problem(type(loaded).__name__, config))
    give_back_padding(loaded, model, config)
    return loaded


def give_back_padding(loaded: Any, model: str, config: Any) -> None:
    """The embedding of the padding token as the files have it: some code (Youtu's) makes it zero after it was read."""
    layer, folder = loaded.get_input_embeddings(), local_folder(model)
    index = getattr(layer, "padding_idx", None)
    if index is None or folder is None or layer.weight[index].any():
        return
    names = [name for name, parameter in loaded.named_parameters() if parameter is layer.weight]
    for _, tensor in values(weight_files(folder, config), names):
        layer.weight.data[index] = tensor[index].to(layer.weight)


def from_files(auto: Any, model: str, config: Any, dtype: torch.dtype) -> tuple[Any, Report]:
    """The model of one of transformers' Auto classes, and what its files lacked, whatever that is."""
    refuse_quantised(config)
    loaded, info = auto.from_pretrained(
        model,
        config=config,
        dtype=dtype,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are in the report
    )
    return loaded, Report.of(info)


def examine(model: str) -> Report:
    """What loading a model would find that lies here, told from its config and the headers of its files. What comes of
    an adapter is told by merging it: then it is loaded.

    Raises:
        UserError: what would be wrong with it.
    """
    with loading(model):
        if is_adapter(model):
            report = examine(base_of(model))
            load_model(model, torch.device("cpu"))
            return report
        config = read_config(model)
        kind, report = compared(causal_class(config), model, config)
        refuse(report.problem(kind, config))
        read_generation(model, config)
        return report


def compared(auto: Any, model: str, config: Any) -> tuple[str, Report]:
    """The class that one of transformers' Auto classes makes of this config, and what the files of it hold.

    Raises:
        UserError: there are no such files, or no weights in them.
    """
    folder = local_folder(model)
    if folder is None:
        raise UserError("it is not on this machine")
    files = weight_files(folder, config)
    tensors = outline(files)
    refuse_quantised(config)
    with torch.device("meta"):
        empty = auto.from_config(config)
    return type(empty).__name__, compare(empty, tensors, files)


def refuse(problem: str | None) -> None:
    if problem:
        raise UserError(problem)


def look_at_values(model: str) -> None:
    """Every number of its weights; of an adapter (which `examine` has merged) those that it lies on.

    Raises:
        UserError: they are not finite.
    """
    with loading(model):
        model = whole_of(model)
        folder = local_folder(model)
        if folder is not None:
            refuse_no_numbers(values(weight_files(folder, read_config(model))))


def load_outline(model: str) -> Any:
    """The model with its settings and without its weights, for who needs only the former.

    Raises:
        UserError: its config cannot be loaded.
    """
    with loading(model):
        whole = whole_of(model)
        config = read_config(whole)
        empty = empty_model(config)
        empty.generation_config = read_generation(whole, config)
    empty.name_or_path = model
    return empty
