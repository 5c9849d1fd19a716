"""Weights through files, inside a `vllm serve` process: vLLM's own ways to bring new weights need GPUs.

Only vLLM imports this file: `grpo serve` names it as the worker's extension, which makes the backend known in every
worker before it loads its model. What the trainer does is in `grpo.engines.vllm.weights`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from grpo.engines.vllm.weights import FILES, FOLDER_KEY, SUFFIX, unpack_experts
from grpo.system.private import read_private


@dataclass
class FilesInit(WeightTransferInitInfo):
    """Nothing is agreed on beforehand."""


@dataclass
class FilesUpdate(WeightTransferUpdateInfo):
    """One file of tensors under their Hugging Face names."""

    name: str  # FOLDER/FILE, in the folder that the server was started with
    sha256: str


class FilesEngine(WeightTransferEngine[FilesInit, FilesUpdate]):
    """Loads tensors layer by layer, as vLLM's NCCL backend does, and misses none silently."""

    init_info_cls = FilesInit
    update_info_cls = FilesUpdate

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        additional: Any = self.vllm_config.additional_config
        self.folder = Path(additional[FOLDER_KEY])
        self.expected: set[str] = set()
        self.loaded: set[str] = set()

    def init_transfer_engine(self, init_info: FilesInit) -> None:
        return

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self.expected = {name for name, _ in self.model.named_parameters()}
        self.loaded = set()
        unpack_experts(self.model)
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Without vLLM's wait for the accelerator, which a CPU does not have; loading has ended when this returns."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: FilesUpdate) -> None:
        """
        Raises:
            ValueError: the file is not one of the trainer's, or not what it wrote.
        """
        name = update_info.name
        folder, _, file = name.partition("/")
        if not name.endswith(SUFFIX):
            raise ValueError(f"not a file of weights in {self.folder}: {name!r}")
        content = read_private(self.folder, folder, file)  # into memory: the trainer deletes the file
        if hashlib.sha256(content).hexdigest() != update_info.sha256:
            raise ValueError(f"{self.folder / name}: not what the trainer wrote")
        tensors = {key: tensor.to(self.device) for key, tensor in load(content).items()}
        self.loaded |= self.model.load_weights(tensors.items())

    def finish_weight_update(self) -> None:
        """
        Raises:
            ValueError: some weights did not come. (vLLM only warns, and keeps the old ones.)
        """
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        missing = sorted(self.expected - self.loaded) if self.model_config.quantization is None else []
        if missing:
            raise ValueError(f"{len(missing)} weights did not come, such as {missing[0]}")

    def shutdown(self) -> None:
        return


class Worker:
    """What `--worker-extension-cls` names: nothing but a reason to import this file."""


if FILES not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(FILES, FilesEngine)
