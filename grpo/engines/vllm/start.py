"""How vLLM is started: settings under which its log-probs are the trainer's, in this process or as a server."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from grpo.config.algorithm import LoraConfig
from grpo.config.engine import EngineConfig
from grpo.config.inert import MAX_RANK
from grpo.engines.vllm.weights import FILES, FOLDER_KEY, WORKER
from grpo.errors import UserError, first_line
from grpo.model.loading.adapter import whole_of
from grpo.system.world import launched

GIB = 2**30
CPU_CACHE_GIB = 1.0


@dataclass(frozen=True)
class ServedModel:
    """The model that an engine with weights of its own samples from."""

    name: str  # folder or hub name of the weights it starts with
    tokenizer: Any
    end_ids: tuple[int, ...]
    longest: int  # tokens of the longest prompt and completion together
    device: str
    dtype: str  # of the weights it samples with, as runtime.dtype says
    lora: LoraConfig | None = None


def settings(config: EngineConfig, served: ServedModel) -> dict[str, Any]:
    """vLLM's engine arguments, by their names in Python."""
    options = config.vllm
    on_gpu = served.device == "cuda"
    chosen: dict[str, Any] = {
        "model": whole_of(served.name),
        "dtype": served.dtype,
        "max_model_len": served.longest,
        "max_num_seqs": config.max_rows,
        "tensor_parallel_size": options.tensor_parallel,
        "quantization": options.quantization,
        "enforce_eager": options.eager or not on_gpu,
        # The log-probs of the distribution that is drawn from, temperature included (the default is T = 1).
        "logprobs_mode": "processed_logprobs",
        # Nothing of the model's generation config: a repetition penalty there would be applied silently.
        "generation_config": "vllm",
        "seed": 0,  # each request has its own
    }
    if options.kv_cache_gib is not None or not on_gpu:
        chosen["kv_cache_memory_bytes"] = int((options.kv_cache_gib or CPU_CACHE_GIB) * GIB)
    if on_gpu:
        chosen |= {"gpu_memory_utilization": options.memory}
    else:  # the CPU's generator cannot be given to a prompt that is computed in parts
        chosen |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(16384, served.longest)}
    if served.lora is not None and options.lora == "adapter":
        chosen |= {"enable_lora": True, "max_lora_rank": lora_rank(served.lora.r), "max_loras": 1, "max_cpu_loras": 2}
    return chosen


def lora_rank(rank: int) -> int:
    """The smallest of vLLM's adapter sizes that holds this rank."""
    return next(size for size in (1, 8, 16, 32, 64, 128, 256, 320, MAX_RANK) if size >= rank)


def environment() -> dict[str, str]:
    """What vLLM reads from the environment; what the user has set there stays."""
    debug = logging.getLogger("grpo").isEnabledFor(logging.DEBUG)
    wanted = {
        "VLLM_LOGGING_LEVEL": "INFO" if debug else "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else the trainer's threads are bound with vLLM's
    }
    return {name: value for name, value in wanted.items() if name not in os.environ}


def start(config: EngineConfig, served: ServedModel, folder: Path) -> Any:
    """vLLM's `LLM` in this process; with tensor parallelism its workers are others, which read weights below `folder`.

    Raises:
        UserError: it cannot start with these settings.
    """
    import torch

    parallel = config.vllm.tensor_parallel > 1
    if parallel and launched():
        raise UserError(
            "engine.vllm.tensor_parallel: each of several trainer processes has a vLLM of its own: set it to 1, or use "
            "engine=vllm-server"
        )
    os.environ.update(environment())
    # With one worker, the engine's core is in this process too: weights are handed over, not sent.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if parallel else "0"
    set_threads = torch.set_num_threads
    try:
        from vllm import LLM
        from vllm.platforms import current_platform

        if current_platform.device_type != served.device:
            raise ValueError(
                f"this one is built for '{current_platform.device_type}' and the run is on '{served.device}' "
                "(runtime.device)"
            )
        sleeps = config.vllm.sleep and served.device == "cuda"
        extra: dict[str, Any] = {"disable_log_stats": True, "use_tqdm_on_load": False, "enable_sleep_mode": sleeps}
        if launched():
            extra["distributed_executor_backend"] = "external_launcher"
        if parallel:
            extra |= {
                "worker_extension_cls": WORKER,
                "weight_transfer_config": {"backend": FILES},
                "additional_config": {FOLDER_KEY: str(folder)},
            }
        return LLM(**settings(config, served), **extra)
    except (ValueError, RuntimeError, OSError, ImportError, AssertionError) as error:
        raise UserError(f"engine.kind=vllm: vLLM cannot start: {_reason(error)}") from error
    finally:
        torch.set_num_threads = set_threads  # on a CPU vLLM replaces it by one that does nothing


def _reason(error: Exception) -> str:
    """One line. The first of pydantic's error says only that there is one."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        text = first["msg"].removeprefix("Value error, ")
        return f"{name}: {text}" if name else text
    return first_line(error)
