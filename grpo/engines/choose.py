"""Which engine samples: the factory behind `engine.kind`, for training and for a model that only samples."""

from pathlib import Path
from typing import Any

import torch

from grpo.config.algorithm import LoraConfig
from grpo.config.engine import EngineConfig, RuntimeConfig
from grpo.engines.local.engine import LocalEngine
from grpo.engines.local.process import ProcessEngine
from grpo.engines.local.trial import tried
from grpo.engines.vllm import require_vllm, vllm_is_there
from grpo.engines.vllm.start import ServedModel
from grpo.model.loading.adapter import refuse_adapter, whole_of
from grpo.model.loading.device import inference_dtype, pick_device
from grpo.model.loading.settings import quantisation, read_config
from grpo.model.loading.tokenizer import end_token_ids
from grpo.model.loading.weights import examine, load_model, load_outline
from grpo.model.policy import Policy
from grpo.types import RolloutEngine


def engine_kind(config: EngineConfig, runtime: RuntimeConfig) -> str:
    """`engine.kind`, with `auto` resolved: vLLM where it is installed and the run is on a GPU.

    Raises:
        UserError: vLLM is asked for and is not there.
    """
    if config.kind == "vllm":
        require_vllm("engine.kind=vllm")
    return chosen(runtime)[0] if config.kind == "auto" else config.kind


def chosen(runtime: RuntimeConfig) -> tuple[str, str]:
    """What `auto` is here, and why."""
    device = pick_device(runtime).type
    if device != "cuda":
        return "local", f"the run is on {device}"
    return ("vllm", "it is installed") if vllm_is_there() else ("local", "vLLM is not installed")


def training_engine(
    config: EngineConfig,
    policy: Policy,
    runtime: RuntimeConfig,
    *,
    name: str,
    longest: int,
    model: Any = None,
    lora: LoraConfig | None = None,
) -> RolloutEngine:
    """The engine of a training run, to be filled by `sync` before it samples.

    `name`: what the policy was loaded from. `model`: the one that the embedded engine samples from, None when every
    forward of the policy's own is a collective (FSDP): it then has a copy. With `ahead` it has one in another process.

    Raises:
        UserError: the engine is not there, cannot start with these settings, or lacks the model's kind of attention.
    """
    kind = engine_kind(config, runtime)
    if kind == "local" and config.ahead:
        # On two cores as many threads as the trainer has made a step 1.8 times as long, half of them cost nothing.
        return ProcessEngine(name, runtime, config.max_rows, max(1, torch.get_num_threads() // 2))
    if kind == "local":
        sampled_from = load_model(name, policy.device, inference_dtype(runtime)) if model is None else model
        engine = LocalEngine(sampled_from, policy.tokenizer, config.max_rows, shared=model is not None)
        return tried(engine, runtime.dtype)
    end_ids = end_token_ids(policy.model, policy.tokenizer)
    served = ServedModel(name, policy.tokenizer, end_ids, longest, policy.device.type, runtime.dtype, lora)
    return _with_own_weights(kind, config, served)


def sampling_engine(
    config: EngineConfig, model: Any, tokenizer: Any, runtime: RuntimeConfig, *, name: str, longest: int
) -> RolloutEngine:
    """The engine for a model that is not trained: `load_for_sampling` of `name`, or one in memory.

    Raises:
        UserError: as of `training_engine`.
    """
    kind = engine_kind(config, runtime)
    if kind == "local":
        return tried(LocalEngine(model, tokenizer, config.max_rows), runtime.dtype)
    end_ids = end_token_ids(model, tokenizer)
    served = ServedModel(name, tokenizer, end_ids, longest, pick_device(runtime).type, runtime.dtype)
    engine = _with_own_weights(kind, config, served)
    try:
        if model.device.type != "meta":
            engine.sync(Policy(model, tokenizer, model.device))
    except BaseException:
        engine.close()
        raise
    return engine


def load_for_sampling(name: str, config: EngineConfig, runtime: RuntimeConfig) -> Any:
    """What `sampling_engine` needs of the model: vLLM in this process reads the weights itself."""
    kind = engine_kind(config, runtime)
    if kind != "local":
        refuse_adapter(name)
    if kind == "vllm":
        if Path(name).exists() and quantisation(read_config(whole_of(name))) is None:
            examine(name)
        return load_outline(name)
    device = pick_device(runtime) if kind == "local" else torch.device("cpu")
    return load_model(name, device, inference_dtype(runtime))


def _with_own_weights(kind: str, config: EngineConfig, served: ServedModel) -> RolloutEngine:
    refuse_adapter(served.name)
    if kind == "vllm":
        from grpo.engines.vllm.in_process import VllmEngine

        return VllmEngine(config, served)
    from grpo.engines.vllm.servers import ServerEngine

    return ServerEngine(config, served)
