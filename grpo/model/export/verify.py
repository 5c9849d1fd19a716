"""Whether what is saved loads again as the model it is, asked of names and shapes alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from grpo.errors import UserError, first_line
from grpo.model.export.names import as_in_checkpoint, kept_names
from grpo.model.loading.files import outline, weight_files
from grpo.model.loading.report import compare
from grpo.model.loading.weights import silent


def check_saved(model: Any, folder: Path) -> None:
    """The weights in a folder are all that transformers needs for this model, and no others; none is read.

    Raises:
        UserError: not so.
    """
    from transformers import AutoConfig

    files = weight_files(folder)
    _check(type(model), AutoConfig.from_pretrained(folder), outline(files), files)


def check_can_be_saved(model: Any) -> None:
    """Before anything is computed: what would be saved of it would load again.

    Raises:
        UserError: not so.
    """
    names, state = kept_names(model), model.state_dict()
    shapes = ((name, torch.empty_like(state[name], device="meta")) for name in names)
    _check(type(model), copy.deepcopy(model.config), dict(as_in_checkpoint(model, names, shapes)), ())


def _check(kind: Any, config: Any, tensors: Mapping[str, torch.Tensor], files: Sequence[Path]) -> None:
    try:
        with silent():
            with torch.device("meta"):
                empty = kind._from_config(config)
            problem = compare(empty, tensors, files).problem(kind.__name__, config)
    except RuntimeError as error:  # parts of an expert do not fit each other
        problem = first_line(error)
    if problem:
        raise UserError(f"as it is saved, {kind.__name__} would not load again: {problem}")
