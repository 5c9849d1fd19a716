"""Rows, the rewards and judges of what is made of them, and an evaluation."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_serializer, model_validator

from grpo.config.section import Section, changed, without


class DataConfig(Section):
    """Rows from files, a hub data set, or a function given by import path."""

    text_is: ClassVar = "path"  # `data: train.jsonl`
    path: str | None = None  # file, folder, glob, or hub name
    fn: str | None = None  # import path of a function that returns a list of rows
    kwargs: dict[str, Any] = {}
    split: str = "train"  # of a hub data set or a folder
    subset: str | None = None  # configuration of a hub data set or its folder
    limit: int | None = Field(None, ge=1)
    columns: dict[str, str] = {}  # {name to read it under: column of the data, or a.b for what is inside of it}
    system: str | None = None  # system message put before prompts that have none
    suffix: str = ""  # put after the user's last message, e.g. "\nPut the final answer in \\boxed{}."
    template: str | None = None  # plain-text template with {prompt}; None: the model's own chat template
    max_prompt_tokens: int | None = Field(None, ge=1)
    overlong: Literal["drop", "error"] = "drop"  # dropped prompts are counted and said

    @model_serializer(mode="wrap")
    def _without_empty(self, inner: Any) -> dict[str, Any]:
        """What was made before there was `columns` was made with the same settings."""
        values: dict[str, Any] = inner(self)
        return values if self.columns else {name: value for name, value in values.items() if name != "columns"}

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
    text_is: ClassVar = "fn"  # `accuracy`
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


def listed(rewards: Any) -> Any:
    """`rewards: accuracy` is short for a list of it alone."""
    return [rewards] if isinstance(rewards, str | dict) else rewards


Several = (Field(min_length=1), AfterValidator(distinct), BeforeValidator(listed))
Rewards = Annotated[tuple[RewardConfig, ...], *Several]


JudgeConfig = Annotated[RewardConfig, without("weight", "name", because="a judge stands alone, named by its key")]


MOST_TOKENS = 1024  # of a completion in an evaluation, where that is not set


class CurveConfig(Section):
    """How often the policy of an RL run is evaluated, and on how much."""

    number_is: ClassVar = "steps"  # `every: 10`
    steps: int = Field(ge=1)  # at the rollout boundary at or after each multiple; also at 0 and at the end
    problems: int | None = Field(None, ge=1)  # at most so many, the same ones each time; None: all
    samples: int | None = Field(None, ge=1)  # of each; None: as many as the evaluation draws


class EvalConfig(Section):
    """pass@1 on one problem set, at the evaluation temperature."""

    data: DataConfig
    samples: int = Field(1, ge=1)
    temperature: float = Field(0.6, ge=0)  # 0: greedy
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)  # None: `MOST_TOKENS`, or the fewer that the model has positions for
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

    def of_curve(self, every: CurveConfig) -> EvalConfig:
        """The same with as many samples as the curve has; each k that those are enough for stays.

        Raises:
            ValueError: several samples, all of which would be the same.
        """
        samples = every.samples or self.samples
        if self.temperature == 0 and samples > 1:
            raise ValueError(
                "'every.samples' must be 1 with temperature: 0, which gives the same completion every time"
            )
        return self.model_copy(update={"samples": samples, "k": tuple(k for k in self.k if k <= samples)})
