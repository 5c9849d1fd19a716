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
from grpo.model.loading.files import outline, refuse_no_numbers, values, weight_files
from grpo.model.loading.generation import mended, read_generation
from grpo.model.loading.path import check_model
from grpo.model.loading.report import Report, compare
from grpo.model.loading.settings import causal_class, empty_model, read_config, refuse_quantised

log = logging.getLogger("grpo")


@contextmanager
def loading(model: str, what: str = "model") -> Iterator[None]:
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
        raise UserError(f"{what} '{model}': cannot be loaded: {first_line(error, typed=typed)}") from error


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
    if changes := mended(loaded.generation_config):
        log.warning("generation_config of '%s' could not be saved as it is: %s", loaded.name_or_path, changes)
    return with_whole_attention(loaded).to(device).eval()


def _load(model: str, dtype: torch.dtype) -> Any:
    if heads := examine(model).heads:
        text = "'%s': %d weights of heads for further tokens are left out, neither trained nor saved: %s for one"
        log.warning(text, model, len(heads), heads[0])
    model = whole_of(model)
    config = read_config(model)
    loaded = causal_class(config).from_pretrained(model, config=config, dtype=dtype, trust_remote_code=False)
    give_back_padding(loaded, model, config)
    return loaded


def give_back_padding(loaded: Any, model: str, config: Any) -> None:
    """The embedding of the padding token as the files have it: some code (Youtu's) makes it zero after it was read."""
    layer = loaded.get_input_embeddings()
    index = getattr(layer, "padding_idx", None)
    if index is None or layer.weight[index].any():
        return
    names = [name for name, parameter in loaded.named_parameters() if parameter is layer.weight]
    for _, tensor in values(weight_files(model, config), names):
        layer.weight.data[index] = tensor[index].to(layer.weight)


def with_whole_attention(model: Any) -> Any:
    """The model, its attention plain ("eager") where SDPA, which transformers takes, would leave something out: the
    softcap of Gemma 2 and its kin. tests/matrix compares every architecture with its plain attention."""
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")
    return model


def examine(model: str) -> Report:
    """What loading a model finds, told from its config and the headers of its files (a hub model's are fetched). What
    comes of an adapter is told by merging it: then it is loaded.

    Raises:
        UserError: what is wrong with it.
    """
    with loading(model):
        if is_adapter(model):
            report = examine(base_of(model))
            load_model(model, torch.device("cpu"))
            return report
        model = whole_of(model)
        config = read_config(model)
        kind, report = compared(causal_class(config), model, config)
        if problem := report.problem(kind, config):
            raise UserError(problem)
        read_generation(model, config)
        return report


def compared(auto: Any, model: str, config: Any) -> tuple[str, Report]:
    """The class that one of transformers' Auto classes makes of this config, and what the files of it hold.

    Raises:
        UserError: there are no such files, or no weights in them.
    """
    files = weight_files(model, config)
    tensors = outline(files)
    refuse_quantised(config)
    with torch.device("meta"):
        empty = auto.from_config(config)
    return type(empty).__name__, compare(empty, tensors, files)


def look_at_values(model: str) -> None:
    """Every number of its weights; of an adapter (which `examine` has merged) those that it lies on.

    Raises:
        UserError: they are not finite.
    """
    with loading(model):
        whole = whole_of(model)
        refuse_no_numbers(values(weight_files(whole, read_config(whole))))


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
