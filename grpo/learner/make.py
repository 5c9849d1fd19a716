"""A `Learner` from a policy: AdamW on accelerate, the processes, gradient checkpointing, sharding."""

from typing import Any

import torch

from grpo.config.engine import RuntimeConfig
from grpo.config.training import RLConfig
from grpo.errors import UserError
from grpo.learner.decay import decay_groups
from grpo.learner.learner import Learner
from grpo.model.adapter import base_model
from grpo.model.fit import fit_of
from grpo.model.policy import Policy, trainable
from grpo.system.world import World, check_sharding

PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def make_learner(policy: Policy, config: RLConfig, runtime: RuntimeConfig) -> Learner:
    """AdamW over the policy's trainable parameters, on accelerate (device, processes, autocast, loss scaling).

    Raises:
        UserError: nothing is trainable, or there is nothing to shard over.
    """
    check_sharding(runtime.parallel)
    world = World.current()
    accelerator = make_accelerator(policy.device, runtime)
    if not trainable(policy.model):
        raise UserError("no parameter of the model is trainable: nothing would be learnt")
    world.share_weights([parameter.data for parameter in trainable(policy.model).values()])
    fit = fit_of(policy.model, config.sampling.temperature)
    if config.gradient_checkpointing:
        enable_checkpointing(policy.model)
    sharded = runtime.parallel == "fsdp"
    if sharded:
        from grpo.model.sharding import shard

        model = shard(policy.model, accelerator, world)
    else:  # not wrapped for gradients: `World.sum_gradients` adds them up once a step, after the last micro-batch
        model = accelerator.prepare_model(policy.model, evaluation_mode=True)
    settings = config.optimizer
    trained = trainable(model).values()
    optimizer = torch.optim.AdamW(
        decay_groups(trained, settings.weight_decay) if settings.weight_decay else trained,
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=policy.device.type in ("cpu", "cuda"),
    )
    if accelerator.scaler is not None:  # it makes its scale at the first loss, which this process may not have
        accelerator.scaler.scale(torch.zeros((), device=accelerator.device))
    return Learner(
        model,
        accelerator.prepare_optimizer(optimizer),
        accelerator,
        fit,
        config.micro_batch_tokens,
        world,
        sharded,
        dropout=config.lora is not None and config.lora.dropout > 0,
        checkpointing=config.gradient_checkpointing,
    )


def enable_checkpointing(model: Any) -> None:
    """Have decoder layers keep their inputs alone and run again in the backward, in `Learner.forwards(training=True)`.

    Raises:
        UserError: the model's code has no layers of that kind.
    """
    base = base_model(model)
    if not base.supports_gradient_checkpointing:
        raise UserError(f"gradient_checkpointing: {type(base).__name__} does not support it; remove it")
    base.gradient_checkpointing_enable({"use_reentrant": False})


def make_accelerator(device: torch.device, runtime: RuntimeConfig) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    precision = PRECISION[runtime.dtype]
    if AcceleratorState._shared_state.get("_mixed_precision", precision) != precision:
        AcceleratorState._reset_state()  # an earlier run of this process had another dtype
    return Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
