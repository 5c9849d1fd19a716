"""The policy: the model being trained, what it gives to an engine, how it is saved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from grpo.config.algorithm import LoraConfig
from grpo.config.engine import RuntimeConfig
from grpo.model.adapter import add_adapter, base_model, is_adapted, merged_names, merged_tensors
from grpo.model.export.folder import save_model, whole_folder
from grpo.model.export.names import as_in_checkpoint
from grpo.model.export.verify import check_can_be_saved
from grpo.model.loading.device import pick_device
from grpo.model.loading.tokenizer import load_tokenizer
from grpo.model.loading.weights import load_model
from grpo.system.world import is_main


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
    save_dtype: str = "auto"  # see `grpo.config.engine.RuntimeConfig`

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name in the model, full tensor), one at a time, adapters merged.

        With sharded weights every process must go through all of it.
        """
        for name, tensor in merged_tensors(self.model):
            yield name, whole(tensor.detach())

    def export(self) -> Iterator[tuple[str, torch.Tensor]]:
        """`tensors` as a Hugging Face checkpoint has them: the experts of a mixture one by one, for most."""
        yield from as_in_checkpoint(base_model(self.model), merged_names(self.model), self.tensors())

    def save_adapter(self, folder: Path) -> None:
        """The adapter by itself, in peft's format."""
        self._write_adapter(self._trained(), folder)

    def save(self, folder: Path) -> None:
        """The model in Hugging Face format, an adapter merged into it, and the adapter by itself in `adapter/`."""
        tensors = self.tensors()
        try:
            save_model(base_model(self.model), self.tokenizer, folder, tensors, dtype=self.save_dtype)
        finally:
            for _ in tensors:  # what is sharded is gathered by all
                pass
        adapter = self._trained() if is_adapted(self.model) else {}
        if is_main() and adapter:
            self._write_adapter(adapter, folder.with_name("adapter"))

    def _trained(self) -> dict[str, torch.Tensor]:
        return {name: whole(parameter.detach()) for name, parameter in trainable(self.model).items()}

    def _write_adapter(self, trained: dict[str, torch.Tensor], folder: Path) -> None:
        with whole_folder(folder) as partial:
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
    check_can_be_saved(loaded)
    return Policy(loaded if lora is None else add_adapter(loaded, lora, seed), tokenizer, device, runtime.save_dtype)
