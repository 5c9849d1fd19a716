"""Whether a vLLM server samples what the trainer scores: its settings are read before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from grpo.config.engine import EngineConfig
from grpo.engines.vllm.client import Server
from grpo.engines.vllm.start import ServedModel
from grpo.engines.vllm.weights import FILES, FOLDER_KEY, NCCL
from grpo.errors import UserError

if TYPE_CHECKING:
    from httpx2 import AsyncClient

ADVICE = "start it with `grpo serve CONFIG`"


async def check_server(client: AsyncClient, server: Server, config: EngineConfig, served: ServedModel) -> str:
    """The backend by which this server takes weights.

    Raises:
        UserError: this run cannot use it; with all reasons.
        RequestFailed: it does not answer.
    """
    await server.get(client, "/v1/models")  # which wants the key of every server that has one
    try:
        info = await server.get(client, "/server_info?config_format=json")
        paused = await server.get(client, "/is_paused")
    except UserError as error:
        raise UserError(f"{error}: without VLLM_SERVER_DEV_MODE=1 it takes no weights: {ADVICE}") from error
    reasons = list(_reasons(info["vllm_config"], config, served))
    if reasons:
        raise UserError(f"vLLM at {server.url} cannot serve this run: {'; '.join(reasons)}; {ADVICE}")
    if not paused["is_paused"]:  # else a trainer ended while it sent weights: the server may have none to compute with
        await _probe(client, server, served)
    return str(info["vllm_config"]["weight_transfer_config"]["backend"])


async def _probe(client: AsyncClient, server: Server, served: ServedModel) -> None:
    """Whether it takes and gives token ids."""
    probe = {"token_ids": [served.end_ids[0]], "sampling_params": {"max_tokens": 1, "logprobs": 0}}
    try:
        await server.post(client, "/inference/v1/generate", probe)
    except UserError as error:
        raise UserError(f"{error}; {ADVICE}") from error


def _reasons(settings: dict[str, Any], config: EngineConfig, served: ServedModel) -> Iterator[str]:
    """What is wrong with a server of this configuration (vLLM's own, as JSON)."""
    model = settings["model_config"]
    if model["logprobs_mode"] != "processed_logprobs":  # else they are those of T = 1
        yield f"logprobs_mode is {model['logprobs_mode']}, not processed_logprobs"
    if model["generation_config"] != "vllm":  # else a repetition penalty in it is applied
        yield f"generation_config is {model['generation_config']}, not vllm"
    if model["max_model_len"] < served.longest:
        yield f"max_model_len is {model['max_model_len']}, and prompt and completion need {served.longest}"
    if model["dtype"] != f"torch.{served.dtype}":
        yield f"dtype is {model['dtype']}, and runtime.dtype is {served.dtype}"
    if model["quantization"] != config.vllm.quantization:
        yield f"quantization is {model['quantization']}, and engine.vllm.quantization is {config.vllm.quantization}"
    on_cpu = settings["device_config"]["device"] == "cpu"
    if on_cpu and settings["scheduler_config"]["enable_chunked_prefill"]:  # the server would crash
        yield "enable_chunked_prefill is on, which breaks seeds on a CPU"
    backend = (settings["weight_transfer_config"] or {}).get("backend")
    asked = config.server
    wanted = (FILES, NCCL) if asked.transfer == "auto" else (asked.transfer,)
    if backend not in wanted:
        yield f"weight_transfer_config.backend is {backend}, not {' or '.join(wanted)}"
    folder = settings["additional_config"].get(FOLDER_KEY)
    if backend == FILES and folder != asked.folder:
        yield f"it takes weights from the folder {folder}, and engine.server.folder is {asked.folder}"
