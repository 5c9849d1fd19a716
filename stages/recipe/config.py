"""The file that `grpo run` reads: the core's sections, one per stage of the recipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from grpo.config.data import CurveConfig, DataConfig, EvalConfig, JudgeConfig, RewardConfig, Rewards, Several
from grpo.config.engine import EngineConfig, RuntimeConfig
from grpo.config.section import below, without
from grpo.config.stepwise import unchanging
from grpo.config.training import (
    HELD_OUT,
    NEEDS_CURVE,
    CheckpointConfig,
    OptimizerConfig,
    RLConfig,
    SamplingConfig,
    Section,
    Seed,
    SFTCheckpointConfig,
    SFTConfig,
)
from grpo.errors import nearest, shorten

_OF_PROMPTS = ("suffix", "template", "max_prompt_tokens")
Conversations = Annotated[DataConfig, without(*_OF_PROMPTS, because="it is for prompts, and these are conversations")]
PlainRows = Annotated[DataConfig, without(*_OF_PROMPTS, "system", because="it is for prompts, and these rows are none")]
Filters = Annotated[tuple[Annotated[RewardConfig, without("weight", because="a filter keeps or drops")], ...], *Several]
ONLY = "default"  # the name of a stage's only task, in the short form
LONGEST_NAME = 200  # bytes of a task's or a set's name
EVALUATED = (
    *("base", "r1_zero", "cold_start", "reasoning_rl", "rejection_sampling", "helpfulness_rl"),
    *("student_base", "student", "student_rl"),
)


def check_names(names: Iterable[str], what: str) -> None:
    """They become names of files.

    Raises:
        ValueError: one cannot.
    """
    for name in names:
        plain = name.isprintable() and not {*name} & {*"/\\"} and name[:1] not in ("", ".", " ")
        if not plain or len(name.encode()) > LONGEST_NAME:
            text = "cannot be the name of a file: use letters, digits, - and _"
            raise ValueError(f"'{what}': {shorten(repr(name))} {text}")


class PretrainConfig(Section):
    """A base model trained from scratch on a plain-text corpus: the tiny world's own stage 0."""

    corpus: PlainRows  # rows with a "text" column
    vocab_size: int = Field(ge=300)
    hidden_size: int = Field(ge=8)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    intermediate_size: int = Field(ge=8)
    max_tokens: int = Field(ge=8)  # longer documents are cut
    batch_size: int = Field(ge=1)  # documents per step
    micro_batch_size: int | None = Field(None, ge=1)  # per forward, rows of like length; None: batch_size
    optimizer: OptimizerConfig
    checkpoint: SFTCheckpointConfig = CheckpointConfig()

    @model_validator(mode="after")
    def _sizes(self) -> PretrainConfig:
        if self.hidden_size % (2 * self.heads):  # rotary embeddings turn pairs of a head's channels
            raise ValueError("'hidden_size' must be an even multiple of 'heads'")
        if self.heads % self.kv_heads:
            raise ValueError("'heads' must be a multiple of 'kv_heads'")
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError("'batch_size' must be a multiple of 'micro_batch_size'")
        return self


class BaseConfig(Section):
    """Where the base model comes from: an existing one (folder or hub name), or trained from scratch for `steps`."""

    text_is: ClassVar = "model"  # `base: some/model`
    model: str | None = None
    chat_template: str | None = None  # a jinja file: the model's from then on, in every stage
    template_kwargs: dict[str, Any] = {}  # {enable_thinking: false, ...}: what the template reads, in every stage
    steps: int | None = Field(None, ge=1)
    pretrain: PretrainConfig | None = None

    @model_validator(mode="after")
    def _one_source(self) -> BaseConfig:
        if (self.model is None) == (self.pretrain is None):
            raise ValueError("give exactly one of 'model' and 'pretrain'")
        if (self.pretrain is None) != (self.steps is None):
            raise ValueError("'steps' and 'pretrain' belong together")
        if self.pretrain is not None and (self.chat_template is not None or self.template_kwargs):
            raise ValueError("'chat_template' and 'template_kwargs' are for an existing 'model'; remove them")
        return self


class TaskConfig(Section):
    """Data and the rewards that judge it. `last_steps`: it joins only for the last N steps of the stage,
    so in a stage cut shorter than that it is there from the start."""

    data: DataConfig
    rewards: Rewards
    share: float = Field(1.0, gt=0)  # of the prompts of a rollout, relative to the other tasks
    last_steps: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _judged(self) -> TaskConfig:
        if all(reward.weight == 0 for reward in self.rewards):
            raise ValueError("'rewards': each has weight 0, so there is nothing to train on")
        return self


class RLStageConfig(RLConfig):
    """A stage of GRPO: each task's prompts are judged by the task's own rewards.

    `data` and `rewards` of the stage are short for those of a task called "default", its only one.
    """

    SHORT: ClassVar[tuple[str, ...]] = ("data", "rewards")

    tasks: dict[str, TaskConfig] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _only_task(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        only, tasks = {key: tree[key] for key in cls.SHORT if key in tree}, tree.get("tasks")
        if only and tasks is not None and (not isinstance(tasks, dict) or tasks.keys() - {ONLY}):
            raise ValueError("'data' and 'rewards' are those of the only task, and here are 'tasks' too: remove one")
        if tasks is not None and not only:
            return tree
        if isinstance(only.get("data"), str):  # an override may go on inside it
            only["data"] = {"path": only["data"]}
        task = below(only, (tasks or {}).get(ONLY) or {})
        return {**{key: value for key, value in tree.items() if key not in cls.SHORT}, "tasks": {ONLY: task}}

    @model_validator(mode="after")
    def _tasks(self) -> RLStageConfig:
        check_names(self.tasks, "tasks")  # the rows of a task are in data/<name>.jsonl
        if all(task.last_steps is not None for task in self.tasks.values()):
            raise ValueError("every task has 'last_steps': nothing to train on before them")
        rewards = [reward for task in self.tasks.values() for reward in task.rewards]
        self.check_names({reward.label for reward in rewards})
        if self.advantage.scale == "mean" and any(reward.weight < 0 for reward in rewards):
            raise ValueError(
                "'advantage.scale': mean divides by the mean reward, which a negative 'weight' makes negative"
            )
        return self


class ColdStartConfig(SFTConfig):
    data: Conversations  # rows with "messages"


class RejectionSamplingConfig(SFTConfig):
    """Sample the previous stage's model, keep correct and readable outputs, mix general data, SFT from the base."""

    data: DataConfig  # the reasoning prompts
    group_size: int = Field(8, ge=1)  # samples per prompt
    sampling: Annotated[SamplingConfig, unchanging(because="the stage samples once")] = SamplingConfig()
    filters: Filters  # an output is kept when each of them gives 1.0
    keep_per_prompt: int = Field(1, ge=1)  # outputs kept per prompt, the first ones
    general: Conversations | None = None  # rows with "messages", mixed in


class RewardModelConfig(SFTConfig):
    """A reward model trained on the run's data: pairwise (prompt, chosen, rejected) or pointwise (label)."""

    data: PlainRows

    @model_validator(mode="after")
    def _scores_alone(self) -> RewardModelConfig:
        if self.router_loss:
            raise ValueError("'router_loss' has no effect here: a reward model learns from scores alone; remove it")
        return self


class StudentConfig(SFTConfig):
    """Another model learns what stage 3 trained on, written with its own tokenizer and chat template."""

    data: Conversations | None = None  # None: stage 3's


class GeneralEvalConfig(Section):
    """General prompts and the rules that judge them; none of these rules is seen by a reward model."""

    data: DataConfig
    max_tokens: int = Field(ge=1)
    general: JudgeConfig
    helpfulness: JudgeConfig
    safety: JudgeConfig
    over_refusal: JudgeConfig


class DecontaminateConfig(Section):
    """No training row may hold so much of an evaluation problem: see `stages.recipe.ngrams`."""

    ngram: int = Field(10, ge=2)  # words in a row; characters in writing without spaces
    share: float = Field(0.5, ge=0, le=1)  # of a problem's n-grams; 0: one is enough
    action: Literal["refuse", "drop"] = "refuse"  # drop: rows that hold a problem, copies too, are not trained on


class EvalSetConfig(EvalConfig):
    """One more set of problems."""

    after: Annotated[tuple[str, ...], Field(min_length=1)] | None = None  # stages; None: each


class EvaluationConfig(Section):
    """What the model of every stage is evaluated on. What is not asked for leaves empty cells in the table."""

    math: EvalConfig | None = None
    every: CurveConfig | None = None  # in RL stages, `math` also on the way: a curve
    sets: dict[str, EvalSetConfig] = {}  # beside it, by names of yours: eval/<name>.json
    general: GeneralEvalConfig | None = None
    # Import path of f(row or rows) -> set of problem keys: no key of an evaluation problem may be in training data.
    leak_check: str | None = None
    decontaminate: DecontaminateConfig | None = None  # None: only copies of the whole text are looked for

    @model_validator(mode="after")
    def _with_problems(self) -> EvaluationConfig:
        absent = [] if self.math is not None else ["every"] if self.sets else ["every", "leak_check", "decontaminate"]
        for name in absent:
            if getattr(self, name) is not None:
                others = "" if name == "every" else ", or of 'sets'"
                raise ValueError(f"'{name}' needs the problems of 'math' beside it{others}: give them, or remove it")
        if self.math is not None and self.every is not None:
            self.math.of_curve(self.every)
        check_names(self.sets, "sets")
        if "math" in self.sets:
            raise ValueError("'sets': 'math' is what the problems beside them are called: give the set another name")
        return self

    def sets_after(self, stage: str) -> dict[str, EvalSetConfig]:
        """Those that the model of this stage is tried on."""
        return {name: one for name, one in self.sets.items() if one.after is None or stage in one.after}


class RecipeConfig(Section):
    """The whole run. A stage whose section is absent is not part of it."""

    seed: Seed = 0
    engine: EngineConfig = EngineConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    base: BaseConfig
    r1_zero: RLStageConfig | None = None
    cold_start: ColdStartConfig | None = None
    reasoning_rl: RLStageConfig | None = None
    rejection_sampling: RejectionSamplingConfig | None = None
    helpfulness_model: RewardModelConfig | None = None
    safety_model: RewardModelConfig | None = None
    helpfulness_rl: RLStageConfig | None = None
    student_base: BaseConfig | None = None
    student: StudentConfig | None = None
    student_rl: RLStageConfig | None = None

    @model_validator(mode="after")
    def _students(self) -> RecipeConfig:
        for name in ("student", "student_rl"):
            if getattr(self, name) is not None and self.student_base is None:
                raise ValueError(f"'{name}' needs 'student_base', the model that it trains: give one")
        if self.student is not None and self.student.data is None and self.rejection_sampling is None:
            raise ValueError("'student' without 'data' learns from stage 3's: give it 'data', or 'rejection_sampling'")
        return self

    @model_validator(mode="after")
    def _curve(self) -> RecipeConfig:
        sections = dict(find(self, RLStageConfig))
        if self.evaluation.every is not None and not sections:
            raise ValueError("'evaluation.every' has no effect: no stage of reinforcement learning is here; remove it")
        for path, section in sections.items():
            if section.checkpoint.best == HELD_OUT and self.evaluation.every is None:
                raise ValueError(f"'{path}.checkpoint.best: {HELD_OUT}' {NEEDS_CURVE}: set 'evaluation.every'")
        return self

    @model_validator(mode="after")
    def _evaluated(self) -> RecipeConfig:
        there = [key for key in EVALUATED if getattr(self, key) is not None]
        for name, key in ((name, key) for name, one in self.evaluation.sets.items() for key in one.after or ()):
            if key not in there:
                absent = "no stage of this config that is evaluated"
                raise ValueError(f"'evaluation.sets.{name}.after': '{key}': {absent}{nearest(key, there)}")
        return self


def training_settings(config: RecipeConfig, key: str) -> SFTConfig | PretrainConfig | RLStageConfig | None:
    """Of the training of stage `key`; None: an existing base model is taken as it is."""
    section = getattr(config, key)
    return section.pretrain if isinstance(section, BaseConfig) else section


def find(value: Any, kind: type[Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """All settings of one kind with their key paths."""
    if isinstance(value, kind):
        yield path, value
        return
    if isinstance(value, BaseModel):
        items: Any = ((name, getattr(value, name)) for name in type(value).model_fields)
    elif isinstance(value, dict):
        items = value.items()
    elif isinstance(value, tuple | list):
        items = enumerate(value)
    else:
        return
    for name, item in items:
        yield from find(item, kind, f"{path}.{name}" if path else str(name))
