"""The policy: loading, export, saving. Weights are fp32 masters; half precision is autocast."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from grpo.config.algorithm import LoraConfig
from grpo.config.engine import RuntimeConfig
from grpo.errors import UserError, first_line
from grpo.model.adapter import add_adapter, base_model, is_adapted, merged_tensors
from grpo.model.path import check_model
from grpo.system.files import as_os_error, must_write
from grpo.system.world import is_main, launched, local_rank


def pick_device(runtime: RuntimeConfig) -> torch.device:
    """The device asked for; `auto` takes a GPU when there is one. Each of several processes has its own GPU.

    Raises:
        UserError: there is no such device, or it cannot train in this precision.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    name = runtime.device if runtime.device != "auto" else "cuda" if available["cuda"] else "cpu"
    if not available[name]:
        raise UserError(f"runtime.device={name}: torch finds no such device here")
    if name == "cpu" and runtime.dtype == "float16":
        raise UserError("runtime.dtype=float16 trains with loss scaling on a GPU only; on a CPU use bfloat16")
    shared = name == "cuda" and launched()
    return torch.device(name, local_rank() % torch.cuda.device_count() if shared else None)


@contextmanager
def _loading(model: str, failure: str = "cannot be loaded") -> Iterator[None]:
    """A `UserError` when the name is not a model's, or transformers cannot load it."""
    check_model(model)
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError(f"model '{model}': {failure}: {first_line(error)}") from error


def load_tokenizer(model: str) -> Any:
    """The model's tokenizer. A pad token equal to an end token is never used in a mask, so it needs no repair.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    with _loading(model, "no tokenizer can be loaded"):
        return AutoTokenizer.from_pretrained(model)


def inference_dtype(runtime: RuntimeConfig) -> torch.dtype:
    """What weights are held in where nothing is trained."""
    return torch.bfloat16 if runtime.dtype == "bfloat16" else torch.float32


def load_model(model: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """A causal LM, in eval mode: dropout would make pi_theta differ from the policy that sampled. Training wants fp32
    masters.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    with _loading(model):
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    return loaded.to(device).eval()


def load_outline(model: str) -> Any:
    """The model with its settings and without its weights, for who needs only the former.

    Raises:
        UserError: its config cannot be loaded.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    with _loading(model), torch.device("meta"):
        outline = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    with suppress(OSError):  # without one, what its config says of end tokens is there already
        outline.generation_config = GenerationConfig.from_pretrained(model)
    outline.name_or_path = model
    return outline


def end_token_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every token that ends a completion: all of the generation config's, and the tokenizer's own.

    Raises:
        UserError: there is none.
    """
    configured = model.generation_config.eos_token_id
    ids = [] if configured is None else configured if isinstance(configured, list) else [configured]
    if tokenizer.eos_token_id is not None:
        ids = [*ids, tokenizer.eos_token_id]
    if not ids:
        raise UserError("the model has no end token: set eos_token_id in its generation_config.json")
    return tuple(dict.fromkeys(int(token) for token in ids))


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
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
    with must_write(folder, size), _whole_folder(folder) as partial:
        model.save_pretrained(partial, state_dict=state)
        try:
            tokenizer.save_pretrained(partial)
        except OSError:
            raise
        except Exception as error:  # the tokenizers' library has no error of its own for a full disk
            raise as_os_error(error, partial) from error


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor that may be sharded."""
    return tensor.to_local() if isinstance(tensor, torch.distributed.tensor.DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor; of a sharded one every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, torch.distributed.tensor.DTensor) else tensor


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    """Name -> parameter, of those that are trained."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@dataclass
class Policy:
    """The model being trained, with what is needed to sample from it and to save it."""

    model: Any
    tokenizer: Any
    device: torch.device

    def export(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(Hugging Face name, full tensor), one at a time, adapters merged: the only way to the weights for an engine.

        With sharded weights every process must go through all of it.
        """
        for name, tensor in merged_tensors(self.model):
            yield name, whole(tensor.detach())

    def save_adapter(self, folder: Path) -> None:
        """The adapter by itself, in peft's format."""
        self._write_adapter(self._trained(), folder)

    def save(self, folder: Path) -> None:
        """The model in Hugging Face format, an adapter merged into it, and the adapter by itself in `adapter/`."""
        tied = base_model(self.model).all_tied_weights_keys  # gathered, a copy does not look like one any more
        state = {}
        for name, tensor in self.export():
            if is_main() and name not in tied:
                state[name] = tensor.cpu()
        adapter = self._trained() if is_adapted(self.model) else {}
        if is_main():
            save_model(base_model(self.model), self.tokenizer, folder, state)
            if adapter:
                self._write_adapter(adapter, folder.with_name("adapter"))

    def _trained(self) -> dict[str, torch.Tensor]:
        return {name: whole(parameter.detach()) for name, parameter in trainable(self.model).items()}

    def _write_adapter(self, trained: dict[str, torch.Tensor], folder: Path) -> None:
        with _whole_folder(folder) as partial:
            # Not the embeddings: they are not trained, and "auto" would ask the hub whether they were resized.
            self.model.save_pretrained(partial, state_dict=trained, save_embedding_layers=False)


def load_policy(model: str, runtime: RuntimeConfig, lora: LoraConfig | None = None, seed: int = 0) -> Policy:
    """The model to train, with a new adapter on it, drawn from `seed`, when `lora` is given.

    Raises:
        UserError: there is no such device, model or layer to adapt.
    """
    device = pick_device(runtime)
    tokenizer = load_tokenizer(model)
    # What is to be sharded is never whole on a GPU.
    loaded = load_model(model, torch.device("cpu") if runtime.parallel == "fsdp" else device)
    return Policy(loaded if lora is None else add_adapter(loaded, lora, seed), tokenizer, device)
