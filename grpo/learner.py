"""The trained model with its optimizer, behind accelerate: one process or many, fp32, bf16 or fp16."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from grpo.batching import Row, collate, micro_batches, share
from grpo.config import RLConfig, RuntimeConfig
from grpo.errors import UserError
from grpo.parallel import World, check_sharding
from grpo.policy import Policy, local, token_scores, trainable
from grpo.reference import Reference
from grpo.types import Group

PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class Learner:
    """What an update works on. `dropout`: the adapter's, which acts in updates only."""

    model: Any
    optimizer: Any
    accelerator: Any
    temperature: float
    micro_batch_size: int
    world: World = field(default_factory=World)
    sharded: bool = False  # FSDP: every forward is a collective, so all processes need equally many
    dropout: bool = False

    def batches(self, rows: Sequence[Row]) -> list[list[Row]]:
        """This process's micro-batches of the step's `rows`; with sharded weights as many in every process, the last
        ones empty where there are fewer rows."""
        batches = micro_batches(share(rows, self.world), self.micro_batch_size)
        if self.sharded:
            batches += [[]] * (self._forwards(len(rows)) - len(batches))
        return batches

    def score(self, rows: Sequence[Row]) -> list[tuple[float, ...]]:
        """Log-probs of the completion tokens of each row, without gradient or dropout; every process scores its share
        and gets all."""
        ordered = sorted(range(len(rows)), key=lambda index: rows[index].length)
        found = self.world.spread([rows[index] for index in ordered], lambda own: self._score(own, len(rows)))
        return [found[place] for place in sorted(range(len(rows)), key=ordered.__getitem__)]

    def _score(self, rows: list[Row], everywhere: int) -> list[tuple[float, ...]]:
        scores = []
        for batch_rows in micro_batches(rows, self.micro_batch_size):
            batch = collate(batch_rows, self.accelerator.device)
            with torch.inference_mode(not self.sharded), torch.no_grad():
                lines = token_scores(
                    self.model, batch.token_ids, batch.completion_mask, self.temperature
                ).logprobs.tolist()
            scores += [
                tuple(line[len(row.prompt_ids) : row.length]) for row, line in zip(batch_rows, lines, strict=True)
            ]
        if self.sharded:
            for _ in range(self._forwards(everywhere) - math.ceil(len(rows) / self.micro_batch_size)):
                with torch.no_grad():
                    self.idle()
        return scores

    def _forwards(self, rows: int) -> int:
        """Micro-batches of the process that has the most of so many rows."""
        return math.ceil(math.ceil(rows / self.world.size) / self.micro_batch_size)

    def idle(self) -> torch.Tensor:
        """A forward on one token whose result is 0: the part of a process that has no rows left."""
        token = torch.zeros(1, 1, dtype=torch.long, device=self.accelerator.device)
        return self.model(input_ids=token, use_cache=False).logits.float().sum() * 0.0

    def tensors(self) -> dict[str, torch.Tensor]:
        """Name -> full trained tensor, on the CPU; with sharded weights in the main process only."""
        return self.full({name: parameter.detach() for name, parameter in trainable(self.model).items()})

    def full(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Full tensors of what the processes hold of each trained one, as in `tensors`."""
        if self.sharded:
            from grpo.sharding import gathered

            return gathered(values, trainable(self.model))
        return {name: value.cpu().contiguous() for name, value in values.items()}

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put back what `tensors` gave."""
        own = {name: local(parameter.detach()) for name, parameter in trainable(self.model).items()}
        self.load_shards(own, tensors)

    def load_shards(self, own: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy full tensors into what this process holds of them."""
        if own.keys() != tensors.keys():
            missing = sorted(own.keys() ^ tensors.keys())[0]
            raise UserError(f"the checkpoint was made with other trained parameters (for one, '{missing}')")
        if self.sharded:
            from grpo.sharding import shards

            tensors = shards(tensors, trainable(self.model))
        with torch.no_grad():
            for name, value in own.items():
                if value.shape != tensors[name].shape:  # of another rank: rank 1 would be spread over all rows
                    raise UserError(f"the checkpoint's '{name}' has another shape: it was made with other settings")
                value.copy_(tensors[name])

    def optimizer_state(self) -> dict[str, Any]:
        """The optimizer's state and the loss scale."""
        scaler = self.accelerator.scaler
        if self.sharded:
            from grpo.sharding import full_optimizer_state

            state = full_optimizer_state(self.optimizer)
        else:
            state = self.optimizer.state_dict()
        return {"optimizer": state, "scaler": scaler.state_dict() if scaler is not None else {}}

    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        if self.sharded:
            from grpo.sharding import load_full_optimizer_state

            load_full_optimizer_state(self.optimizer, state["optimizer"])
        else:
            self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    @contextmanager
    def training(self) -> Iterator[None]:
        """Dropout of the adapter on, if it has any; the model's own stays off."""
        if not self.dropout:
            yield
            return
        layers = [m for name, m in self.model.named_modules() if "lora_dropout" in name]
        for layer in layers:
            layer.train()
        try:
            yield
        finally:
            for layer in layers:
                layer.eval()


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
    sharded = runtime.parallel == "fsdp"
    if sharded:
        from grpo.sharding import shard

        model = shard(policy.model, accelerator, world)
    else:  # not wrapped for gradients: `World.sum_gradients` adds them up once a step, after the last micro-batch
        model = accelerator.prepare_model(policy.model, evaluation_mode=True)
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        trainable(model).values(),
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
        config.sampling.temperature,
        config.micro_batch_size,
        world,
        sharded,
        dropout=config.lora is not None and config.lora.dropout > 0,
    )


def make_accelerator(device: torch.device, runtime: RuntimeConfig) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    precision = PRECISION[runtime.dtype]
    if AcceleratorState._shared_state.get("_mixed_precision", precision) != precision:
        AcceleratorState._reset_state()  # an earlier run of this process had another dtype
    return Accelerator(cpu=device.type == "cpu", mixed_precision=precision)


def with_old_logprobs(learner: Learner, groups: list[Group], chosen: Sequence[Row]) -> list[Group]:
    """The groups with log pi_old of the `chosen` rows' tokens, by the policy as it is now."""
    return _with_scores(groups, chosen, learner.score(chosen), "old_logprobs")


def with_ref_logprobs(
    learner: Learner, groups: list[Group], chosen: Sequence[Row], reference: Reference
) -> list[Group]:
    """The groups with log pi_ref of the `chosen` rows' tokens."""
    with reference.active(learner.model):
        return _with_scores(groups, chosen, learner.score(chosen), "ref_logprobs")


def _with_scores(groups: list[Group], rows: Sequence[Row], scores: Sequence[Any], name: str) -> list[Group]:
    found = {id(row.rollout): score for row, score in zip(rows, scores, strict=True)}
    return [
        replace(
            group,
            rollouts=tuple(replace(r, **{name: found[id(r)]}) if id(r) in found else r for r in group.rollouts),
        )
        for group in groups
    ]
