"""What the process runs on, and the engine that it samples with."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from grpo.config.section import Section


class RuntimeConfig(Section):
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    # bfloat16 computes under autocast over fp32 master weights, so that updates of 1e-6 are not rounded away.
    # float16, for cards without bfloat16, scales the loss as well.
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    parallel: Literal["data", "fsdp"] = "data"  # with several processes: a whole model in each, or a shard (FSDP2)
    # Of the weights in model/; auto: what each came in. Training and checkpoints keep fp32.
    save_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: int | None = Field(None, ge=1, le=1024)  # None: what torch chooses
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    profile: int | None = Field(None, ge=1)  # steps of each RL stage to trace, after a first one; to its profile/
    grace: float = Field(25.0, gt=0)  # seconds to finish and save after SIGTERM or Ctrl-C; SIGKILL often comes after 30


class VllmConfig(Section):
    """How vLLM runs, in this process or behind `grpo serve`."""

    memory: float = Field(0.4, gt=0, lt=1)  # share of a GPU's memory, weights and cache; the trainer has the rest
    kv_cache_gib: float | None = Field(None, gt=0)  # size of the cache instead; None on a CPU: 1
    tensor_parallel: int = Field(1, ge=1)  # GPUs, or CPU processes, that share one copy of the weights
    lora: Literal["merged", "adapter"] = "merged"  # what a sync delivers of a LoRA run: whole weights, or the adapter
    sleep: bool = True  # on a GPU: the trainer gets the memory back while it updates
    quantization: Literal["fp8"] | None = None  # of the weights it samples with (GPU); needs 'correction'
    eager: bool = False  # no CUDA graphs: starts sooner, samples slower


class ServerConfig(Section):
    """`vllm serve` processes, here or elsewhere, that share the prompts among them."""

    urls: tuple[str, ...] = Field(("http://localhost:8000",), min_length=1)
    timeout: float = Field(600.0, gt=0)  # seconds for one request; a server that exceeds it counts as dead
    retries: int = Field(2, ge=0)  # of a request that failed otherwise
    start_timeout: float = Field(600.0, gt=0)  # seconds until every server must be healthy
    transfer: Literal["auto", "nccl", "files"] = "auto"  # of the weights; auto: nccl between GPUs
    folder: str = "/dev/shm"  # transfer: files; trainer and servers must both see it


AHEAD_IN_PROCESS = (
    "'ahead' needs an engine beside the trainer, and vLLM in this process waits for it: use kind local or vllm-server"
)


class EngineConfig(Section):
    text_is: ClassVar = "kind"  # `engine: local` and `engine=local`
    # auto: vllm where it is installed and the run is on a GPU, else local
    kind: Literal["local", "vllm", "vllm-server", "auto"] = "auto"
    max_rows: int = Field(512, ge=1)  # completions decoded at a time
    # Sample the next rollout while this one trains, with the weights this one began with: needs 'correction'.
    ahead: bool = False
    vllm: VllmConfig = VllmConfig()
    server: ServerConfig = ServerConfig()

    @model_validator(mode="after")
    def _elsewhere(self) -> EngineConfig:
        if self.ahead and self.kind == "vllm":
            raise ValueError(AHEAD_IN_PROCESS)
        return self
