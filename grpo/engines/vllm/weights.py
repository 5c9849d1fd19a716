"""How the policy's weights get into vLLM servers: through files that both sides see, or NCCL between GPUs.

Both follow vLLM's weight-transfer API: pause, start, update in parts, finish with a version, empty the prefix cache,
resume. The servers that are lost on the way are left out; one that refuses is an error.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo.engines.vllm.client import Server, new_client, run
from grpo.errors import UserError
from grpo.system.http import RequestFailed
from grpo.system.private import private_folder, write_private

if TYPE_CHECKING:
    import torch
    from httpx2 import AsyncClient

FILES, NCCL = "files", "nccl"  # names of the backends, as vLLM knows them
FOLDER_KEY = "grpo_weights"  # in vLLM's additional_config: the folder that weights may come from
WORKER = "grpo.engines.vllm.worker_extension.Worker"  # vLLM's workers import it, and know the backend "files" then
SUFFIX = ".safetensors"
CHUNK_BYTES = 256 * 2**20  # of tensors in one file: what the folder must have room for

Call = Callable[["AsyncClient", Server], Awaitable[Any]]


def send_by_files(
    tensors: Iterator[tuple[str, torch.Tensor]], servers: Sequence[Server], folder: Path, version: str
) -> None:
    """All tensors to all servers, a file at a time, in a folder of our own inside of `folder`.

    Raises:
        UserError: a server refuses them, or none is left; the folder does not take them.
    """
    pause(servers)
    post_all(servers, "/start_weight_update")
    try:
        with private_folder(folder) as own:
            for part in weight_files(tensors, own):
                post_all(servers, "/update_weights", {"update_info": part})
    except OSError as error:
        raise UserError(f"'{folder}': {error.strerror or error} (engine.server.folder)") from error
    post_all(servers, "/finish_weight_update", {"weight_version": version})
    resume(servers, version)


def weight_files(tensors: Iterator[tuple[str, torch.Tensor]], folder: Path) -> Iterator[dict[str, str]]:
    """What vLLM's `update_weights` is told of each file of a `private_folder`, which is there until the next one is
    asked for.

    Raises:
        UserError: the folder does not take it.
    """
    from safetensors.torch import save

    for chunk in chunks(tensors):
        file = folder / f"{secrets.token_hex(16)}{SUFFIX}"
        content = save(chunk)
        try:
            write_private(folder, file.name, content)
            yield {"name": f"{folder.name}/{file.name}", "sha256": hashlib.sha256(content).hexdigest()}
        except OSError as error:
            raise UserError(f"'{file}': {error.strerror or error} (weights on their way to vLLM)") from error
        finally:
            file.unlink(missing_ok=True)


def unpack_experts(model: Any) -> None:
    """On a CPU vLLM packs a mixture's experts when it makes their kernel, and new ones not at all, which it then reads
    as if they were packed: without the kernel it takes new weights as it took the first."""
    if next(model.parameters()).device.type == "cpu":
        for module in model.modules():
            if getattr(getattr(module, "quant_method", None), "moe_kernel", None) is not None:
                module.quant_method.moe_kernel = None


def chunks(tensors: Iterator[tuple[str, torch.Tensor]], limit: int = CHUNK_BYTES) -> Iterator[dict[str, torch.Tensor]]:
    """Tensors in memory of their own, at most `limit` bytes at a time, or a single one that is larger."""
    chunk: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if chunk and size + tensor.nbytes > limit:
            yield chunk
            chunk, size = {}, 0
        chunk[name] = tensor.to("cpu", copy=True).contiguous()  # a copy: tied weights share theirs
        size += tensor.nbytes
    if chunk:
        yield chunk


def pause(servers: Sequence[Server]) -> None:
    """Nothing is computed with a mixture of old and new weights: what is still running is ended."""
    post_all(servers, "/pause?mode=abort")


def resume(servers: Sequence[Server], version: str) -> None:
    """The new weights are in place, have this version, and nothing computed by older ones is left.

    Raises:
        UserError: any of this is not so.
    """
    for server, answer in post_all(servers, "/reset_prefix_cache"):
        if answer.get("success") is not True:
            raise UserError(
                f"vLLM at {server.url} did not empty its prefix cache after new weights: it would mix old and new"
            )
    post_all(servers, "/resume")
    for server, answer in on_all(servers, lambda client, server: server.get(client, "/weight_info")):
        if answer.get("weight_version") != version:
            raise UserError(
                f"vLLM at {server.url} has weights of version {answer.get('weight_version')} after a sync of {version}"
            )


def post_all(servers: Sequence[Server], path: str, body: Any = None) -> list[tuple[Server, Any]]:
    """`on_all` of a POST."""
    return on_all(servers, lambda client, server: server.post(client, path, body))


def on_all(servers: Sequence[Server], call: Call) -> list[tuple[Server, Any]]:
    """(server, answer) of all that are there, asked at the same time; one that is lost is left out from now on.

    Raises:
        UserError: one refuses, or none is left.
    """

    async def ask() -> list[Any]:
        async with new_client() as client:
            return await asyncio.gather(*(call(client, server) for server in asked), return_exceptions=True)

    asked = live(servers)
    answers = list(zip(asked, run(ask()), strict=True))
    for server, answer in answers:
        if isinstance(answer, RequestFailed) and answer.status is None:
            server.leave_out(str(answer))
        elif isinstance(answer, RequestFailed):
            raise UserError(
                f"vLLM at {server.url} did not take the new weights: {answer}; if it does not recover, start it again"
            )
        elif isinstance(answer, BaseException):
            raise answer
    live(servers)
    return [(server, answer) for server, answer in answers if server.left_out is None]


def live(servers: Sequence[Server]) -> list[Server]:
    """Those that are not left out.

    Raises:
        UserError: none is.
    """
    there = [server for server in servers if server.left_out is None]
    if not there:
        raise UserError(
            "no vLLM server is left: " + "; ".join(f"{server.url}: {server.left_out}" for server in servers)
        )
    return there
