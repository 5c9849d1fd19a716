"""The reference policy of the KL: the weights the stage started from, or those of the last refresh.

Kept are the trainable parameters alone: an adapter and the biases trained with it, or the whole model. They are put
into the policy's place while the reference computes, so it is exact for every kind of adapter (`disable_adapter` is
not, once a bias is trained or the reference was refreshed), and weights under an adapter are never written to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from grpo.model.policy import Policy, local, trainable
from grpo.system import stopping


@dataclass
class Reference:
    """Frozen values of the trainable parameters, by name."""

    values: dict[str, torch.Tensor]

    @classmethod
    def of(cls, policy: Policy) -> Reference:
        """A copy of the policy's present values; of sharded ones each process has its part."""
        return cls({name: local(p).detach().clone() for name, p in trainable(policy.model).items()})

    def replace_by(self, policy: Policy) -> None:
        """Take over the policy's present values."""
        for name, parameter in trainable(policy.model).items():
            self.values[name].copy_(local(parameter).detach())

    @contextmanager
    def active(self, model: Any) -> Iterator[None]:
        """While it lasts, `model` is the reference. A signal does not leave it half that."""
        exchange = partial(self._exchange, model)
        with stopping.between(exchange, exchange):
            yield

    @torch.no_grad()
    def _exchange(self, model: Any) -> None:
        for name, parameter in trainable(model).items():
            if isinstance(parameter, torch.distributed.tensor.DTensor):  # FSDP keeps its own views of the shard
                shard = parameter.to_local()
                kept = shard.clone()
                shard.copy_(self.values[name])
                self.values[name] = kept
            else:
                parameter.data, self.values[name] = self.values[name], parameter.data
