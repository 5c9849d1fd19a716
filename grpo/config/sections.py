"""Every typed setting of the core, strict and frozen: an unknown key is an error that names its path.

A function takes its own section, never the whole. `grpo/config_file.py` reads any of these models from YAML;
`stages/config.py` composes them into the file that `grpo run` reads.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from grpo.config.algorithm import (
    AdvantageConfig,
    CorrectionConfig,
    DifficultyConfig,
    DynamicSamplingConfig,
    LoraConfig,
    LossConfig,
    Preset,
    with_preset,
)
from grpo.config.section import Section, changed, without
from grpo.errors import nearest
from grpo.types import Sampling

Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy and transformers take


class RuntimeConfig(Section):
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    # bfloat16 computes under autocast over fp32 master weights, so that updates of 1e-6 are not rounded away.
    # float16, for cards without bfloat16, scales the loss as well.
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    parallel: Literal["data", "fsdp"] = "data"  # with several processes: a whole model in each, or a shard (FSDP2)
    threads: int | None = Field(None, ge=1)  # None: what torch chooses
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
    kind: Literal["local", "vllm", "vllm-server", "auto"] = "local"  # auto: vllm where it and a GPU are there
    max_rows: int = Field(512, ge=1)  # completions decoded at a time
    # Sample the next rollout while this one trains, with the weights this one began with: needs 'correction'.
    ahead: bool = False
    vllm: VllmConfig = VllmConfig()
    server: ServerConfig = ServerConfig()

    @model_validator(mode="before")
    @classmethod
    def _short(cls, tree: Any) -> Any:
        """`engine: local` and `engine=local` are short for `engine.kind`."""
        return {"kind": tree} if isinstance(tree, str) else tree

    @model_validator(mode="after")
    def _elsewhere(self) -> EngineConfig:
        if self.ahead and self.kind == "vllm":
            raise ValueError(AHEAD_IN_PROCESS)
        return self


class DataConfig(Section):
    """Rows from a JSONL/parquet file, a hub data set, or a function given by import path."""

    path: str | None = None  # file, or hub name
    fn: str | None = None  # import path of a function that returns a list of rows
    kwargs: dict[str, Any] = {}
    split: str = "train"  # of a hub data set
    subset: str | None = None  # configuration of a hub data set
    limit: int | None = Field(None, ge=1)
    system: str | None = None  # system message put before string prompts
    suffix: str = ""  # put after string prompts, e.g. "\nPut the final answer in \\boxed{}."
    template: str | None = None  # plain-text template with {prompt}; None: the model's own chat template
    max_prompt_tokens: int | None = Field(None, ge=1)
    overlong: Literal["drop", "error"] = "drop"  # dropped prompts are counted and said

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if (self.path is None) == (self.fn is None):
            raise ValueError("give exactly one of 'path' and 'fn'")
        if self.template is not None and "{prompt}" not in self.template:
            raise ValueError("'template' must contain {prompt}")
        if self.template is not None and self.system is not None:
            raise ValueError("'system' has no place in a plain-text 'template': write it into the template")
        if self.path is not None and self.kwargs:
            raise ValueError("'kwargs' has no effect without 'fn'; remove it")
        for name in changed(self, ("split", "subset")) if self.fn is not None else ():
            raise ValueError(f"'{name}' is of a hub data set and has no effect with 'fn'; remove it")
        if self.overlong == "error" and self.max_prompt_tokens is None:
            raise ValueError("'overlong: error' has no effect without 'max_prompt_tokens'; set it")
        return self


class RewardConfig(Section):
    fn: str  # built-in name, or import path
    name: str | None = None  # as it appears in metrics; default: fn
    weight: float = 1.0
    kwargs: dict[str, Any] = {}
    columns: dict[str, str] = {}  # {name the function expects: column of the row}

    @property
    def label(self) -> str:
        """The name it appears under; that of `rewards.loader`."""
        return self.name or self.fn.rpartition(".")[2]


def distinct(rewards: tuple[RewardConfig, ...]) -> tuple[RewardConfig, ...]:
    """These rewards, if each has a name of its own."""
    labels = [reward.label for reward in rewards]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"two of them are called '{label}': give one a 'name'")
    return rewards


Rewards = Annotated[tuple[RewardConfig, ...], Field(min_length=1), AfterValidator(distinct)]
JudgeConfig = Annotated[RewardConfig, without("weight", "name", because="a judge stands alone, named by its key")]


class SamplingConfig(Section):
    temperature: float = Field(1.0, gt=0)
    max_tokens: int = Field(ge=1)
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()  # texts that end a completion too; vLLM engines only

    def of(self, group_size: int) -> Sampling:
        return Sampling(group_size, self.max_tokens, self.temperature, stop=self.stop)


class OptimizerConfig(Section):
    lr: float = Field(gt=0)
    weight_decay: float = Field(0.0, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    min_lr: float = Field(0.0, ge=0)  # where linear and cosine end
    max_grad_norm: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _floor(self) -> OptimizerConfig:
        if self.min_lr > self.lr:
            raise ValueError("'min_lr' is above 'lr'")
        if self.min_lr > 0 and self.schedule == "constant":
            raise ValueError("'min_lr' has no effect with schedule: constant; choose linear or cosine")
        return self


class CheckpointConfig(Section):
    every: int | None = Field(None, ge=1)  # steps; saved at the next rollout boundary. None: no checkpoints
    keep: int = Field(2, ge=1)  # the last few
    # Also kept: the one with the highest mean of this reward (`reward`, or `reward/<name>`) over the `every` steps
    # before it. It is the reward of the training prompts, and noisy: an evaluation tells which model is better.
    best: str | None = None

    @model_validator(mode="after")
    def _saved(self) -> CheckpointConfig:
        for name in changed(self, ("keep", "best")) if self.every is None else ():
            raise ValueError(f"'{name}' has no effect without 'every': no checkpoint is saved")
        return self


SFTCheckpointConfig = Annotated[CheckpointConfig, without("best", because="supervised training has no reward")]
OVERLONG = "overlong"  # name of the over-long penalty among the rewards


class RLConfig(Section):
    """How GRPO trains; the prompts and rewards come beside it.

    `steps` counts optimizer updates; schedules, refreshes and metrics rows follow it.
    """

    preset: Preset | None = None  # published settings, below the ones given here
    steps: int = Field(ge=1)
    group_size: int = Field(ge=2)
    prompts_per_step: int = Field(ge=1)
    rollout_prompts: int | None = Field(None, ge=1)  # per rollout; None: prompts_per_step, one mini-batch a rollout
    inner_epochs: int = Field(1, ge=1)  # passes over a rollout
    sampling: SamplingConfig
    # Completions cut at the limit: trained on as they are, not trained on, or punished, with those that come near it.
    truncated: Literal["keep", "mask", "penalise"] = "keep"
    penalty_tokens: int | None = Field(
        None, ge=1
    )  # length of the zone where the penalty grows; None: a fifth of max_tokens
    advantage: AdvantageConfig = AdvantageConfig()
    loss: LossConfig = LossConfig()
    correction: CorrectionConfig | None = None
    dynamic_sampling: DynamicSamplingConfig | None = None
    difficulty: DifficultyConfig | None = None
    lora: LoraConfig | None = None
    optimizer: OptimizerConfig
    reference_every: int | None = Field(None, ge=1)  # replace the reference by the policy every N steps
    # Tokens per forward and backward: prompts once for siblings, no padding. A longer sequence goes alone. On a CPU
    # more are no faster and only take memory; a GPU with memory to spare is busier with 16,384.
    micro_batch_tokens: int = Field(4096, ge=1)
    gradient_checkpointing: bool = False  # a layer's activations are made again in the backward: less memory, more time
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, tree: Any) -> Any:
        return with_preset(tree)

    @model_validator(mode="after")
    def _consistent(self) -> RLConfig:
        if self.rollout_prompts is not None and self.rollout_prompts % self.prompts_per_step:
            raise ValueError("'rollout_prompts' must be a multiple of 'prompts_per_step'")
        if self.reference_every is not None and self.loss.beta == 0:
            raise ValueError("'reference_every' without 'loss.beta' > 0: there is no reference to refresh")
        if self.penalty_tokens is not None and self.truncated != "penalise":
            raise ValueError("'penalty_tokens' has no effect without truncated: penalise")
        if self.penalty_tokens is not None and self.penalty_tokens > self.sampling.max_tokens:
            raise ValueError("'penalty_tokens' is more than 'sampling.max_tokens'")
        if self.loss.kl_in_reward and self.advantage.combine == "normalise_then_sum":
            raise ValueError("'loss.kl.placement: reward' needs advantage.combine: sum_then_normalise")
        return self

    def check_names(self, rewards: Collection[str]) -> None:
        """Do the options that name a reward name one of the tasks' `rewards`?

        Raises:
            ValueError: one does not, or a reward has the name of the over-long penalty.
        """
        if self.penalty_zone and OVERLONG in rewards:
            raise ValueError(f"a reward is called '{OVERLONG}', as is what truncated: penalise adds: give it a 'name'")
        best, columns = self.checkpoint.best, ["reward", *(f"reward/{name}" for name in sorted(rewards))]
        if best is not None and best not in columns:
            raise ValueError(f"'checkpoint.best': no reward '{best}'{nearest(best, columns)}")
        for key in ("dynamic_sampling", "difficulty"):
            section = getattr(self, key)
            if section is not None and section.reward not in rewards:
                hint = nearest(section.reward, rewards)
                raise ValueError(f"'{key}.reward': no task has a reward '{section.reward}'{hint}")

    @property
    def mini_batches(self) -> int:
        """Updates in one pass over a rollout."""
        return (self.rollout_prompts or self.prompts_per_step) // self.prompts_per_step

    @property
    def updates_per_rollout(self) -> int:
        return self.mini_batches * self.inner_epochs

    @property
    def penalty_zone(self) -> int | None:
        """Tokens before the limit where the over-long penalty grows; None when there is none (DAPO: a fifth)."""
        if self.truncated != "penalise":
            return None
        return self.penalty_tokens or max(1, self.sampling.max_tokens // 5)

    def sample_settings(self) -> Sampling:
        return self.sampling.of(self.group_size)


class TrainConfig(RLConfig):
    """Everything `grpo.train` needs but the rows and the reward functions."""

    model: str  # folder or hub name
    out: str  # run folder: metrics.jsonl, completions/, checkpoints/, model/
    seed: Seed = 0
    engine: EngineConfig = EngineConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @classmethod
    def of(cls, algorithm: RLConfig, **run: Any) -> TrainConfig:
        """The settings of an RL section with those of a run: `model`, `out`, `seed`, `engine`, `runtime`."""
        settings = {name: getattr(algorithm, name) for name in RLConfig.model_fields}
        return cls.model_construct(**settings, **run)


class SFTConfig(Section):
    """Supervised training with TRL or transformers' Trainer. Give `steps` or `epochs`."""

    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    batch_size: int = Field(ge=1)  # sequences per optimizer step
    micro_batch_size: int | None = Field(None, ge=1)  # per forward; None: batch_size
    max_tokens: int = Field(ge=1)  # longer examples are dropped and counted
    optimizer: OptimizerConfig
    checkpoint: SFTCheckpointConfig = CheckpointConfig()

    @model_validator(mode="after")
    def _length(self) -> SFTConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of 'steps' and 'epochs'")
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError("'batch_size' must be a multiple of 'micro_batch_size'")
        return self


class EvalConfig(Section):
    """pass@1 on one problem set, at the evaluation temperature."""

    data: DataConfig
    samples: int = Field(1, ge=1)
    temperature: float = Field(0.6, ge=0)  # 0: greedy
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int = Field(ge=1)
    k: tuple[int, ...] = ()  # also report pass@k and maj@k
    accuracy: JudgeConfig = RewardConfig(fn="accuracy", kwargs={"strict": True})
    format: JudgeConfig | None = None  # the required format: pass@1 counts an answer only in it
    language: JudgeConfig | None = None

    @model_validator(mode="after")
    def _enough_samples(self) -> EvalConfig:
        for k in self.k:
            if not 1 <= k <= self.samples:
                raise ValueError(f"'k': pass@k needs k from 1 to 'samples' ({self.samples}), got {k}")
        if self.temperature == 0 and self.samples > 1:
            raise ValueError("'samples' must be 1 with temperature: 0, which gives the same completion every time")
        return self
