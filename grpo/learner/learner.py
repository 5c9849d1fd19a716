"""The trained model with its optimizer, behind accelerate: one process or many, fp32, bf16 or fp16."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

import torch

from grpo.errors import UserError
from grpo.learner.batching import BatchPlan, TrainBatch, TrainRow, collate, model_input
from grpo.learner.decay import in_groups
from grpo.model.adapter import base_model
from grpo.model.attention import shared_attention
from grpo.model.fit import ModelFit
from grpo.model.logprobs import TokenLogprobs, token_logprobs
from grpo.model.packing import ModelInput, make_input
from grpo.model.policy import local, trainable
from grpo.system.world import World

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(eq=False)
class Learner:
    """What an update works on. `dropout`: the adapter's, which acts in updates only."""

    model: Any
    optimizer: Any
    accelerator: Any
    fit: ModelFit
    micro_batch_tokens: int  # lowered when memory runs out
    world: World = field(default_factory=World)
    sharded: bool = False  # FSDP: every forward is a collective, so all processes need equally many
    dropout: bool = False
    checkpointing: bool = False  # of activations

    @property
    def plan(self) -> BatchPlan:
        return BatchPlan(self.micro_batch_tokens, self.fit.share_prompts)

    def sampled_at(self, temperature: float) -> None:
        """From here on log-probs are those of this sampling temperature."""
        if temperature != self.fit.shape.temperature:
            self.fit = replace(self.fit, shape=replace(self.fit.shape, temperature=temperature))

    def batches(self, rows: Sequence[TrainRow]) -> list[list[TrainRow]]:
        """This process's micro-batches of the step's `rows`; with sharded weights as many in every process, the last
        ones empty where there is less to do."""
        everyone = [self.plan.micro_batches(share) for share in self.plan.share(rows, self.world)]
        mine = everyone[self.world.rank]
        return mine + [[]] * (max(map(len, everyone)) - len(mine)) if self.sharded else mine

    def logprobs(self, rows: Sequence[TrainRow]) -> list[tuple[float, ...]]:
        """Log-probs of the completion tokens of each row, without gradient or dropout; every process does its share and
        gets all."""
        shares = self.plan.share(rows, self.world)
        everyone = self.world.spread(shares, lambda _: [self._logprobs(self.batches(rows))])
        order = [row for share in shares for batch in self.plan.micro_batches(share) for row in batch]
        by_row = {id(row): values for row, values in zip(order, chain.from_iterable(everyone), strict=True)}
        return [by_row[id(row)] for row in rows]

    def _logprobs(self, batches: Sequence[list[TrainRow]]) -> list[tuple[float, ...]]:
        logprobs = []
        with torch.inference_mode(not self.sharded), torch.no_grad(), self.forwards():
            for batch in batches:
                if not batch:
                    self.idle()
                    continue
                given = model_input(batch, self.accelerator.device, share_prompts=self.fit.share_prompts)
                values = iter(self.token_logprobs(given).logprobs.tolist())
                logprobs += [tuple(islice(values, len(row.rollout.completion.token_ids))) for row in batch]
        return logprobs

    def collate(self, rows: Sequence[TrainRow]) -> TrainBatch:
        """A micro-batch in the form that the model takes."""
        return collate(rows, self.accelerator.device, share_prompts=self.fit.share_prompts)

    def token_logprobs(self, rows: ModelInput, **options: bool) -> TokenLogprobs:
        """`grpo.model.logprobs.token_logprobs` of the model; inside `forwards`."""
        dtype = AUTOCAST.get(self.accelerator.mixed_precision)
        on = dtype is not None and not self.sharded  # sharded weights are gathered in it
        with torch.autocast(self.accelerator.device.type, dtype, enabled=on):
            return token_logprobs(self.model, rows, self.fit.shape, **options)

    def idle(self) -> torch.Tensor:
        """A forward on one token whose result is 0: the part of a process that has no rows left."""
        one = make_input([((0,), (0,))], self.accelerator.device, share_prompts=self.fit.share_prompts)
        return self.token_logprobs(one).logprobs.sum() * 0.0

    def tensors(self) -> dict[str, torch.Tensor]:
        """Name -> full trained tensor, on the CPU; with sharded weights in the main process only."""
        return self.full({name: parameter.detach() for name, parameter in trainable(self.model).items()})

    def full(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Full tensors of what the processes hold of each trained one, as in `tensors`."""
        if self.sharded:
            from grpo.model.sharding import gathered

            return gathered(values, trainable(self.model))
        return {name: value.cpu().contiguous() for name, value in values.items()}

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put back what `tensors` gave."""
        self.load_shards({name: local(p.detach()) for name, p in trainable(self.model).items()}, tensors)

    def load_shards(self, held: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy full tensors into what this process holds of them."""
        if held.keys() != tensors.keys():
            missing = sorted(held.keys() ^ tensors.keys())[0]
            raise UserError(f"the checkpoint was made with other trained parameters (for one, '{missing}')")
        if self.sharded:
            from grpo.model.sharding import shards

            tensors = shards(tensors, trainable(self.model))
        with torch.no_grad():
            for name, value in held.items():
                if value.shape != tensors[name].shape:  # of another rank: rank 1 would be spread over all rows
                    raise UserError(f"the checkpoint's '{name}' has another shape: it was made with other settings")
                value.copy_(tensors[name])

    def optimizer_state(self) -> dict[str, Any]:
        """The optimizer's state and the loss scale."""
        scaler = self.accelerator.scaler
        if self.sharded:
            from grpo.model.sharding import full_optimizer_state

            state = full_optimizer_state(self.optimizer)
        else:
            state = self.optimizer.state_dict()
        return {"optimizer": state, "scaler": scaler.state_dict() if scaler is not None else {}}

    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `optimizer_state` gave."""
        groups, order = self.optimizer.param_groups, list(trainable(self.model).values())
        state = {**state, "optimizer": in_groups(state["optimizer"], groups, order)}
        if self.sharded:
            from grpo.model.sharding import load_full_optimizer_state

            load_full_optimizer_state(self.optimizer, state["optimizer"])
        else:
            self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    @contextmanager
    def forwards(self, *, training: bool = False) -> Iterator[None]:
        """Around every forward and its backward, which may run layers again. When `training`, the adapter's dropout is
        on, if it has any (the model's own stays off), and activations are not kept if so set."""
        kinds = self.model.named_modules() if training and (self.dropout or self.checkpointing) else ()
        switched = [m for name, m in kinds if "lora_dropout" in name or getattr(m, "gradient_checkpointing", False)]
        with ExitStack() as stack:
            if self.fit.share_prompts:
                stack.enter_context(shared_attention(base_model(self.model)))
            for module in switched:
                module.training = True
                stack.callback(setattr, module, "training", False)
            yield
