"""Every typed setting of the core, strict and frozen: an unknown key is an error that names its path.

A function takes its own section, never the whole. `read_config` turns YAML plus ``key.path=value`` overrides into any
of these models; `stages/config.py` composes them into the file that `grpo run` reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from grpo.errors import UserError, nearest
from grpo.types import Sampling

_NUMBERS = (int, float, int | None, float | None)


class Section(BaseModel):
    """Base of all sections: unknown keys refused, values immutable, defaults checked too, numbers finite."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads yes, on and true as True, which pydantic would take for 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in _NUMBERS:
            raise ValueError("must be a number")
        return value


class RuntimeConfig(Section):
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    # bfloat16 computes under autocast over fp32 master weights, so that updates of 1e-6 are not rounded away.
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int | None = Field(None, ge=1)  # None: what torch chooses
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class EngineConfig(Section):
    kind: Literal["local"] = "local"
    max_rows: int = Field(512, ge=1)  # completions decoded at a time by the embedded engine


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
        return self


class RewardConfig(Section):
    fn: str  # built-in name, or import path
    name: str | None = None  # as it appears in metrics; default: fn
    weight: float = 1.0
    kwargs: dict[str, Any] = {}
    columns: dict[str, str] = {}  # {name the function expects: column of the row}


class SamplingConfig(Section):
    temperature: float = Field(1.0, gt=0)
    max_tokens: int = Field(ge=1)


class AdvantageConfig(Section):
    scale: Literal["group", "batch", "none"] = "group"  # none: Dr. GRPO
    epsilon: float = Field(1e-4, ge=0)  # added to the standard deviation, as TRL


class LossConfig(Section):
    aggregation: Literal["sequence", "token", "constant"] = "sequence"  # GRPO, DAPO, Dr. GRPO
    clip_low: float = Field(0.2, gt=0)
    clip_high: float = Field(0.2, gt=0)
    beta: float = Field(0.0, ge=0)  # weight of the k3 KL to the reference; 0 loads no reference


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
        return self


class CheckpointConfig(Section):
    every: int | None = Field(None, ge=1)  # steps; saved at the next rollout boundary. None: no checkpoints
    keep: int = Field(2, ge=1)


class RLConfig(Section):
    """How GRPO trains; the prompts and rewards come beside it.

    `steps` counts optimizer updates; schedules, refreshes and metrics rows follow it.
    """

    steps: int = Field(ge=1)
    group_size: int = Field(ge=2)
    prompts_per_step: int = Field(ge=1)
    rollout_prompts: int | None = Field(None, ge=1)  # per rollout; None: prompts_per_step, one update a rollout
    sampling: SamplingConfig
    advantage: AdvantageConfig = AdvantageConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig
    reference_every: int | None = Field(None, ge=1)  # replace the reference by the policy every N steps
    micro_batch_size: int = Field(64, ge=1)  # rows per forward and backward
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="after")
    def _consistent(self) -> RLConfig:
        if self.rollout_prompts is not None and self.rollout_prompts % self.prompts_per_step:
            raise ValueError("'rollout_prompts' must be a multiple of 'prompts_per_step'")
        if self.reference_every is not None and self.loss.beta == 0:
            raise ValueError("'reference_every' without 'loss.beta' > 0: there is no reference to refresh")
        return self

    @property
    def updates_per_rollout(self) -> int:
        return (self.rollout_prompts or self.prompts_per_step) // self.prompts_per_step

    def sample_settings(self) -> Sampling:
        return Sampling(self.group_size, self.sampling.max_tokens, self.sampling.temperature)


class TrainConfig(RLConfig):
    """Everything `grpo.train` needs but the rows and the reward functions."""

    model: str  # folder or hub name
    out: str  # run folder: metrics.jsonl, completions/, checkpoints/, model/
    seed: int = 0
    engine: EngineConfig = EngineConfig()
    runtime: RuntimeConfig = RuntimeConfig()


class SFTConfig(Section):
    """Supervised training with TRL or transformers' Trainer. Give `steps` or `epochs`."""

    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    batch_size: int = Field(ge=1)  # sequences per optimizer step
    micro_batch_size: int | None = Field(None, ge=1)  # per forward; None: batch_size
    max_tokens: int = Field(ge=1)  # longer examples are dropped and counted
    optimizer: OptimizerConfig
    checkpoint: CheckpointConfig = CheckpointConfig()

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
    accuracy: RewardConfig = RewardConfig(fn="accuracy", kwargs={"strict": True})
    format: RewardConfig | None = None  # the required format: pass@1 counts an answer only in it
    language: RewardConfig | None = None


SectionT = TypeVar("SectionT", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """YAML as people expect it: 1e-6 is a number, a key given twice is an error."""


def _no_duplicates(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        where = f"{key_node.start_mark.name}, line {key_node.start_mark.line + 1}"
        if isinstance(key, (dict, list)):
            raise UserError(f"{where}: a key must be a word, not {key}")
        if key in seen:
            raise UserError(f"{where}: key '{key}' given twice")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _no_duplicates)


def _load_yaml(text: str, name: str) -> Any:
    try:
        loader = _StrictLoader(text)  # looks for control characters already
        loader.name = name
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date like 2026-02-30
        mark = getattr(error, "problem_mark", None)
        where = f"{name}, line {mark.line + 1}" if mark else name
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{where}: not valid YAML: {reason}") from error


def _coerce(value: Any) -> Any:
    """PyYAML reads 1e-6 as a string (YAML 1.1 wants a dot and a sign): make such strings the numbers they are."""
    if isinstance(value, dict):
        return {key: _coerce(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_coerce(item) for item in value]
    if isinstance(value, str) and value[:1] in "+-.0123456789" and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set ``a.b.c=value`` in a nested dict, the value read as YAML; list items by number."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"override '{override}': write it as key.path=value")
    node: Any = tree
    keys = path.split(".")
    for depth, key in enumerate(keys):
        here = ".".join(keys[: depth + 1])
        last = depth == len(keys) - 1
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise UserError(f"override '{override}': '{here}' must be a list index below {len(node)}")
            index: Any = int(key)
        elif isinstance(node, dict):
            index = key
        else:
            raise UserError(f"override '{override}': '{'.'.join(keys[:depth])}' is a single value, not a section")
        if last:
            node[index] = _coerce(_load_yaml(text, f"override '{override}'"))
        elif isinstance(node, dict):
            if node.get(index) is None:
                node[index] = {}
            elif key == "engine" and isinstance(node[index], str):  # `engine: local` is short for engine.kind
                node[index] = {"kind": node[index]}
            node = node[index]
        else:
            node = node[index]


def validate(model: type[SectionT], tree: dict[str, Any], source: str) -> SectionT:
    """Build the typed config, turning pydantic's report into one line that names the key's path."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        if first["type"] == "extra_forbidden":
            hint = nearest(str(first["loc"][-1]), _known_keys(model, first["loc"][:-1]))
            raise UserError(f"{source}: unknown key '{path}'{hint}{more}") from error
        if first["type"] == "missing":
            raise UserError(f"{source}: '{path}' is missing{more}") from error
        message = str(first["msg"]).removeprefix("Value error, ")
        got = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
        raise UserError(f"{source}: '{path or model.__name__}': {message}{got}{more}") from error


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The field names of the section at `path`, found by walking the type annotations."""
    candidates = [model]
    for part in path:
        following: list[type[BaseModel]] = []
        for item in candidates:
            field = item.model_fields.get(str(part))
            following += _models_in(field.annotation) if field else [item]  # dict keys and list indices stay
        candidates = following
    return [name for item in candidates for name in item.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]


def read_tree(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> dict[str, Any]:
    """The nested dict of a YAML file with overrides applied."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"config '{path}': no such file")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"config '{path}': not UTF-8 text") from error
    tree = _coerce(_load_yaml(text, str(path)))
    if not isinstance(tree, dict):
        raise UserError(f"config '{path}': expected sections (key: value), got {type(tree).__name__}")
    for override in overrides:
        apply_override(tree, override)
    return tree


def read_config(model: type[SectionT], path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> SectionT:
    """YAML + overrides -> typed config. Every mistake is a `UserError` naming file, key and nearest valid key."""
    return validate(model, read_tree(path, overrides), f"config '{path}'")
