"""How a model is trained: GRPO and everything it takes, and supervised training."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

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
from grpo.config.engine import EngineConfig, RuntimeConfig
from grpo.config.section import Section, below, changed, without
from grpo.config.stepwise import MayChange, at, changing
from grpo.errors import nearest
from grpo.types import Sampling

Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy and transformers take


class SamplingConfig(Section):
    temperature: Annotated[float, Field(gt=0), MayChange()] = 1.0
    max_tokens: Annotated[int, Field(ge=1), MayChange()] = 1024
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()  # texts that end a completion too; vLLM engines only

    def of(self, group_size: int) -> Sampling:
        return Sampling(group_size, self.max_tokens, self.temperature, stop=self.stop)


# Learning rates where none is given: TRL's of GRPO (R1: 3e-6) and of SFT; adapters take ten times what full training
# takes ("LoRA Without Regret", Thinking Machines, 2025).
LR, LR_LORA, LR_SFT = 1e-6, 1e-5, 2e-5


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
    # before it. That is the reward of the training prompts, and noisy. `eval/pass@1`: the one with the highest pass@1
    # on held-out problems, of those saved at every step whose policy is evaluated on its way (`evaluation.every`).
    best: str | None = None

    @model_validator(mode="after")
    def _saved(self) -> CheckpointConfig:
        for name in changed(self, ("keep", "best")) if self.every is None else ():
            raise ValueError(f"'{name}' has no effect without 'every': no checkpoint is saved")
        return self


SFTCheckpointConfig = Annotated[CheckpointConfig, without("best", because="supervised training has no reward")]
# Settings that records of older runs and stages do not have, as they were before there was a choice.
ABSENT: dict[str, Any] = {"engine.ahead": False, "difficulty.retire": None, "loss.distill": None}
HELD_OUT = "eval/pass@1"  # for `best`, and in metrics.jsonl
NEEDS_CURVE = "needs a policy that is evaluated on its way"
OVERLONG = "overlong"  # name of the over-long penalty among the rewards


class RLConfig(Section):
    """How GRPO trains; the prompts and rewards come beside it.

    `steps` counts optimizer updates; schedules, refreshes and metrics rows follow it. What changes on the way
    (`grpo.config.stepwise`) does so with the first rollout that begins at or after its step.
    """

    preset: Preset | None = None  # published settings, below the ones given here
    steps: int = Field(ge=1)
    group_size: int = Field(8, ge=2)
    prompts_per_step: int = Field(16, ge=1)
    rollout_prompts: int | None = Field(None, ge=1)  # per rollout; None: prompts_per_step, one mini-batch a rollout
    inner_epochs: int = Field(1, ge=1)  # passes over a rollout
    sampling: SamplingConfig = SamplingConfig()
    # Completions cut at the limit: trained on as they are, not trained on, or punished, with those that come near it.
    truncated: Literal["keep", "mask", "penalise"] = "keep"
    penalty_tokens: int | None = Field(None, ge=1)  # of the zone where the penalty grows; None: a fifth of max_tokens
    advantage: AdvantageConfig = AdvantageConfig()
    loss: LossConfig = LossConfig()
    correction: CorrectionConfig | None = None
    dynamic_sampling: DynamicSamplingConfig | None = None
    difficulty: DifficultyConfig | None = None
    lora: LoraConfig | None = None
    optimizer: OptimizerConfig = OptimizerConfig(lr=LR)
    reference_every: int | None = Field(None, ge=1)  # replace the reference by the policy every N steps
    # Tokens per forward and backward: prompts once for siblings, no padding. A longer sequence goes alone. On a CPU
    # more are no faster and only take memory; a GPU with memory to spare is busier with 16,384.
    micro_batch_tokens: int = Field(4096, ge=1)
    gradient_checkpointing: bool = False  # a layer's activations are made again in the backward: less memory, more time
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        return below({"optimizer": {"lr": LR_LORA if tree.get("lora") else LR}}, with_preset(tree))

    @model_validator(mode="after")
    def _consistent(self) -> RLConfig:
        if self.rollout_prompts is not None and self.rollout_prompts % self.prompts_per_step:
            raise ValueError("'rollout_prompts' must be a multiple of 'prompts_per_step'")
        if self.reference_every is not None and self.loss.beta == 0:
            raise ValueError("'reference_every' without 'loss.beta' > 0: there is no reference to refresh")
        if self.penalty_tokens is not None and self.truncated != "penalise":
            raise ValueError("'penalty_tokens' has no effect without truncated: penalise")
        if self.penalty_tokens is not None and any(self.penalty_tokens > p.sampling.max_tokens for p in self.phases()):
            raise ValueError("'penalty_tokens' is more than 'sampling.max_tokens'")
        if self.advantage.scale == "mean" and (self.truncated == "penalise" or self.loss.kl_in_reward):
            below = "truncated: penalise" if self.truncated == "penalise" else "loss.kl.placement: reward"
            raise ValueError(f"'advantage.scale': mean divides by the mean reward, which '{below}' makes negative")
        if self.loss.kl_in_reward and self.advantage.combine == "normalise_then_sum":
            raise ValueError("'loss.kl.placement: reward' needs advantage.combine: sum_then_normalise")
        if self.loss.distill is not None and self.loss.distill.urls and self.sampling.temperature != 1:
            raise ValueError("'loss.distill.urls': vLLM scores at temperature 1 only: sample so, or leave 'urls' out")
        self._check_watched()
        return self

    def _check_watched(self) -> None:
        """Where a teacher alone gives the advantages, settings of the rewards' would do nothing."""
        if self.loss.distill is None or self.loss.distill.reward_weight > 0:
            return
        idle = {
            "advantage": self.advantage != AdvantageConfig(),
            "truncated: penalise": self.truncated == "penalise",
            "loss.kl.placement: reward": self.loss.kl_in_reward,
        }
        for name in (name for name, is_set in idle.items() if is_set):
            text = "has no effect: the advantages are the teacher's; give loss.distill.reward_weight"
            raise ValueError(f"'{name}' {text}")

    def check_names(self, rewards: Collection[str]) -> None:
        """Do the options that name a reward name one of the tasks' `rewards`?

        Raises:
            ValueError: one does not, or a reward has the name of the over-long penalty.
        """
        if self.penalty_zone and OVERLONG in rewards:
            raise ValueError(f"a reward is called '{OVERLONG}', as is what truncated: penalise adds: give it a 'name'")
        best, columns = self.checkpoint.best, ["reward", *(f"reward/{name}" for name in sorted(rewards)), HELD_OUT]
        if best is not None and best not in columns:
            raise ValueError(f"'checkpoint.best': no reward '{best}'{nearest(best, columns)}")
        for key in ("dynamic_sampling", "difficulty"):
            section = getattr(self, key)
            if section is not None and section.reward not in rewards:
                hint = nearest(section.reward, rewards)
                raise ValueError(f"'{key}.reward': no task has a reward '{section.reward}'{hint}")

    def at(self, step: int) -> Self:
        """As the rollout has it that begins after `step` updates."""
        return at(self, step)

    def phases(self) -> list[Self]:
        """As it is from the beginning, and after each change."""
        starts = {start for number in changing(self).values() for start, _ in number.changes}
        return [self.at(start) for start in sorted(starts | {0})]

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
    """Supervised training with TRL or transformers' Trainer, for `steps` or `epochs`; without either, one epoch."""

    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    batch_size: int = Field(16, ge=1)  # sequences per optimizer step
    micro_batch_size: int | None = Field(None, ge=1)  # per forward; None: batch_size
    max_tokens: int = Field(2048, ge=1)  # longer examples are dropped and counted
    # Coefficient of what a mixture of experts adds to the loss so that its experts are used alike; 0: tokens alone.
    router_loss: float = Field(0.0, ge=0)
    optimizer: OptimizerConfig = OptimizerConfig(lr=LR_SFT)
    checkpoint: SFTCheckpointConfig = CheckpointConfig()

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        length = {"epochs": 1.0} if tree.get("steps") is None and tree.get("epochs") is None else {}
        return below({"optimizer": {"lr": LR_SFT}}, {**tree, **length})

    @model_validator(mode="after")
    def _length(self) -> SFTConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of 'steps' and 'epochs'")
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError("'batch_size' must be a multiple of 'micro_batch_size'")
        return self
