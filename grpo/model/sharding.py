"""Sharded training (FSDP2): each process holds a part of every weight, gradient and optimizer state.

torch's `fully_shard` is called directly. accelerate's FSDP plugin would do the same on GPUs, but it is silently ignored
on CPUs (accelerate 1.15), where this is tested; it leaves the last layers gathered after a forward, so that a reference
put into their place would not be seen; and its global state would reach the supervised stages of the same run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from grpo.errors import UserError
from grpo.model.adapter import base_model
from grpo.model.policy import local, whole
from grpo.system.world import World, is_main

COMPUTE = {"no": None, "bf16": torch.bfloat16}  # what weights are gathered in; masters and gradients stay fp32


def shard(model: Any, accelerator: Any, world: World) -> Any:
    """The model, in place, sharded over all processes, decoder layer by decoder layer.

    Raises:
        UserError: the precision is float16, or the model names no decoder layers.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    if accelerator.mixed_precision not in COMPUTE:
        raise UserError("runtime.parallel=fsdp trains in float32 or bfloat16; set runtime.dtype=bfloat16")
    mesh = init_device_mesh(accelerator.device.type, (world.size,))
    precision = MixedPrecisionPolicy(COMPUTE[accelerator.mixed_precision], reduce_dtype=torch.float32)
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
    sharded = fully_shard(model, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
    # Embeddings and head are whole inside a forward only, and log-probs call the decoder and the head by themselves.
    sharded.run_inside = MethodType(lambda self, function, *arguments: function(self, *arguments), sharded)
    register_fsdp_forward_method(sharded, "run_inside")
    return sharded


def decoder_layers(model: Any) -> list[nn.Module]:
    """The modules that the model says are not to be split.

    Raises:
        UserError: it says none.
    """
    names = set(base_model(model)._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        kind = type(base_model(model)).__name__
        raise UserError(f"runtime.parallel=fsdp: {kind} does not name its decoder layers, so it cannot be sharded")
    return layers


def gathered(values: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`_in_main` of shards that lie as `parameters` do."""
    return _in_main((name, _as_sharded(value, parameters[name])) for name, value in values.items())


def _in_main(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Full tensors on the CPU, in the main process (in the others: nothing). Every process must ask."""
    full: dict[str, torch.Tensor] = {}
    for name, tensor in tensors:
        on_cpu = whole(tensor).cpu()
        if is_main():
            full[name] = on_cpu.contiguous()
    return full


def _as_sharded(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    if isinstance(value, DTensor) or not isinstance(parameter, DTensor):
        return value
    return DTensor.from_local(
        value, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
    )


def shards(tensors: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """This process's part of full tensors, cut as `parameters` are."""
    return {name: local(_cut(tensor, parameters[name])) for name, tensor in tensors.items()}


def _cut(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Every process has read the full tensor, so nothing is sent (`src_data_rank`)."""
    if not isinstance(parameter, DTensor):
        return tensor
    tensor = tensor.to(local(parameter).device)
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)


def full_optimizer_state(optimizer: Any) -> dict[str, Any]:
    """What `optimizer.state_dict()` would be without shards, in the main process: one format for all checkpoints.

    Every process must ask.
    """
    state = optimizer.state_dict()
    full = {index: _in_main(entry.items()) for index, entry in state["state"].items()}
    return {**state, "state": full if is_main() else {}}


def load_full_optimizer_state(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Put back what `full_optimizer_state`, or a run without shards, gave."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    cut = {
        index: {
            name: _cut(value, parameters[index]) if value.shape == parameters[index].shape else value
            for name, value in entry.items()
        }
        for index, entry in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": cut})
