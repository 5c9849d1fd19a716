"""A model folder in Hugging Face format: weights first, then what describes them, compared with what came."""

from __future__ import annotations

import copy
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from grpo.errors import UserError, first_line
from grpo.model.export.beside import carry_over, folder_of
from grpo.model.export.names import Named, as_in_checkpoint, kept_names
from grpo.model.export.verify import check_saved
from grpo.model.export.weights import casting, write_weights
from grpo.model.loading.files import INDEX, weight_files
from grpo.model.loading.path import UNFINISHED
from grpo.system.files import as_os_error, must_write, reason
from grpo.system.world import is_main

log = logging.getLogger("grpo")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Where to write what shall be in `folder`, which appears whole or not at all."""
    begun = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(parents=True)
        yield begun
        if folder.is_symlink() or folder.is_file():
            folder.unlink()  # what a link leads to is another's
        elif folder.exists():
            shutil.rmtree(folder)
        os.replace(begun, folder)
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def save_model(model: Any, tokenizer: Any, folder: Path, tensors: Named | None = None, *, dtype: str = "auto") -> None:
    """Weights, config, tokenizer, and what else came with the model; appears whole or not at all.

    `tensors` stand for the model's own, under its names. `dtype`: of the weights in the files; `auto`: that of each in
    the folder that the model was read from.

    Raises:
        UserError: the disk does not take the weights, then nothing is left; or what belongs to them cannot be written,
            then the weights are there, marked as not finished.
    """
    if not is_main():
        return
    if (folder / UNFINISHED).is_file():
        shutil.rmtree(folder)  # of a try before this one
    source = folder_of(model.name_or_path)
    cast = casting(source, dtype)
    given = model.state_dict().items() if tensors is None else tensors
    size = sum(parameter.nbytes for parameter in model.parameters())
    failure: Exception | None = None
    with must_write(folder, size), whole_folder(folder) as begun:
        named = as_in_checkpoint(model, kept_names(model), given)
        precision = write_weights(((name, cast(name, tensor)) for name, tensor in named), begun)
        try:
            _describe(model, tokenizer, begun, source, precision)
        except Exception as error:  # noqa: BLE001 - whatever it is, the weights stay
            failure = error
            (begun / UNFINISHED).touch()
    if failure is not None:
        why = reason(failed, folder, size) if (failed := _of_the_disk(failure)) else first_line(failure, typed=True)
        raise UserError(
            f"cannot write '{folder}': {why}; the weights are there (marked {UNFINISHED}); once that is mended, the "
            "same command goes on"
        ) from failure


def _describe(model: Any, tokenizer: Any, folder: Path, source: Path | None, precision: torch.dtype) -> None:
    """Everything but the weights. What a library refuses to write is taken from what came.

    Raises:
        UserError: with its config, the weights do not load again.
    """
    config = copy.deepcopy(model.config)
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if part is not None:
            part.dtype = precision
    if hasattr(config, "quantization_config"):  # of what came; these weights are plain
        del config.quantization_config
    config.architectures = [type(model).__name__.removeprefix("FSDP")]
    # Not `save_pretrained`, which refuses settings that transformers has itself read.
    _write(folder / "config.json", partial(config.to_json_file, folder / "config.json"), source)
    if model.can_generate():
        file = folder / "generation_config.json"
        _write(file, partial(model.generation_config.to_json_file, file), source)
    _write(folder / "tokenizer_config.json", partial(tokenizer.save_pretrained, folder), source)
    if source is not None and (left := _lost(model, source, carry_over(source, folder, tokenizer))):
        log.info("not taken along from '%s': %s", source, ", ".join(left))
    check_saved(model, folder)


def _lost(model: Any, source: Path, left: Sequence[str]) -> list[str]:
    """Of the names that were left those whose content is not in the folder otherwise, and would be of use there."""
    written = {INDEX}
    with suppress(UserError):  # they are there no more
        written.update(file.name for file in weight_files(source))
    if not model.can_generate():  # a reward model
        written.add("generation_config.json")
    return [name for name in left if name not in written]


def _write(file: Path, write: Callable[[], Any], source: Path | None) -> None:
    """`file` by `write`, or the one of that name that came (and `carry_over` brings what else there is)."""
    before = set(file.parent.iterdir())
    try:
        write()
    except Exception as error:
        if _of_the_disk(error) or source is None or not (source / file.name).is_file():
            raise
        log.warning("'%s' is as it came, its library does not write it: %s", file.name, first_line(error, typed=True))
        for half in set(file.parent.iterdir()) - before:
            half.unlink()
        shutil.copyfile(source / file.name, file)


def _of_the_disk(error: Exception) -> OSError | None:
    """What the system says, when it is the disk that did not take something."""
    try:
        return as_os_error(error, Path(""))
    except Exception:  # noqa: BLE001 - it is the same error
        return None
