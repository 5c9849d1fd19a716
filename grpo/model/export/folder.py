"""A model folder in Hugging Face format, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from grpo.system.files import as_os_error, must_write
from grpo.system.world import is_main


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Where to write what shall be in `folder`, which appears whole or not at all."""
    partial = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save_model(model: Any, tokenizer: Any, folder: Path, state: dict[str, torch.Tensor] | None = None) -> None:
    """Hugging Face format (safetensors, tokenizer, template, generation config); appears whole or not at all.

    `state` replaces the model's own tensors.

    Raises:
        UserError: the disk does not take it; nothing half-written is left.
    """
    if not is_main():
        return
    size = sum(parameter.nbytes for parameter in model.parameters())
    with must_write(folder, size), whole_folder(folder) as partial:
        model.save_pretrained(partial, state_dict=state)
        try:
            tokenizer.save_pretrained(partial)
        except OSError:
            raise
        except Exception as error:  # the tokenizers' library has no error of its own for a full disk
            raise as_os_error(error, partial) from error
