"""Weights from the trainer's GPU to the servers' GPUs by NCCL, through vLLM's own trainer side: vLLM must be here."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from grpo.engines.vllm import vllm_is_there
from grpo.engines.vllm.client import Server, new_client, run
from grpo.engines.vllm.weights import live
from grpo.errors import UserError
from grpo.system.http import RequestFailed
from grpo.types import PolicyWeights

if TYPE_CHECKING:
    import torch


class NcclSender:
    """One communicator for each server, opened at the first sync.

    The weights are gone through once for each server. What fails in a broadcast ends the run.
    """

    def __init__(self, rank: int) -> None:
        import torch

        if not torch.cuda.is_available() or not vllm_is_there():
            raise UserError("engine.server.transfer: nccl needs a GPU and vLLM in the trainer too: use transfer=files")
        self.rank = rank
        self.engines: dict[str, Any] = {}
        self.source: Any = None

    def send(self, policy: PolicyWeights, servers: Sequence[Server]) -> None:
        """On every rank: with sharded weights all of them gather.

        Raises:
            UserError: the weights did not get there.
        """
        try:
            for server in live(servers):
                self._engine(policy, server).send_weights()
        except (RequestFailed, RuntimeError, ValueError, OSError) as error:  # of NCCL, of requests
            raise UserError(f"vLLM at {server.url} did not take the new weights: {error}") from error

    def _engine(self, policy: PolicyWeights, server: Server) -> Any:
        if self.source is None:
            self.source = _source(policy)
        if server.url not in self.engines:
            from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
            from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

            host, port = _meeting_point(server.url)
            workers = int(_ask(server, "GET", "/get_world_size")["world_size"]) if self.rank == 0 else 1
            self.engines[server.url] = WeightTransferTrainerFactory.trainer_init(
                NCCLTrainerInitInfo(rank=self.rank, master_address=host, master_port=port, world_size=1 + workers),
                client=_control(server),
                source=self.source,
            )
        return self.engines[server.url]

    def close(self) -> None:
        for engine in self.engines.values():
            engine.shutdown()


def _ask(server: Server, method: str, path: str, body: Any = None) -> Any:
    async def ask() -> Any:
        async with new_client() as client:
            return await (server.get(client, path) if method == "GET" else server.post(client, path, body))

    return run(ask())


def _control(server: Server) -> Any:
    from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient

    class Control(HTTPVLLMWeightSyncClient):
        """Its requests are ours: with the server's key."""

        def _post(self, path: str, json: dict[str, Any] | None = None) -> None:
            _ask(server, "POST", f"/{path}", json)

    return Control(server.url)


def _meeting_point(url: str) -> tuple[str, int]:
    """An address of this machine that the server can reach, and a free port."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:  # sends nothing: asks which interface leads there
        way.connect((parts.hostname, parts.port or 80))
        host = way.getsockname()[0]
    with socket.socket() as free:
        free.bind((host, 0))
        return host, free.getsockname()[1]


def _source(policy: PolicyWeights) -> Any:
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class Source(WeightSource):
        """What `export` gives; names and shapes, which stay, are read once."""

        def __init__(self) -> None:
            self.known = [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in policy.export()]

        def metadata(self) -> list[ParamMeta]:
            return self.known

        def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in policy.export():
                yield name, tensor.to("cuda")  # of this process, when the weights are not there already

    return Source()
