"""The library as two calls, for scripts and notebooks; the command line and the stages use what is underneath."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import model_validator

from grpo.config.data import CurveConfig, DataConfig, EvalConfig
from grpo.config.engine import EngineConfig, RuntimeConfig
from grpo.config.file import read_config, validate
from grpo.config.section import changed
from grpo.config.training import TrainConfig
from grpo.data.prompts import build_prompts
from grpo.data.rendering import dated
from grpo.data.rows import Row, load_rows
from grpo.errors import UserError
from grpo.evaluation.curve import Curve
from grpo.evaluation.evaluate import evaluate as evaluate_with
from grpo.evaluation.metrics import Judges
from grpo.evaluation.result import EvalResult
from grpo.model.loading.tokenizer import load_tokenizer
from grpo.rollout.sampler import Task
from grpo.scoring.table import Reward
from grpo.system.runtime import apply_runtime
from grpo.trainer import TrainResult
from grpo.trainer import train as train_tasks
from rewards.accuracy.reward import extract_answer
from rewards.loader import load_reward
from rewards.rows import judgeable

IN_MEMORY = "rows.jsonl"  # the name that rows handed in get in messages
Data = Sequence[Row] | str | Path | DataConfig


def train(
    config: TrainConfig | dict[str, Any] | str | Path,
    rewards: Sequence[Callable[..., Any] | Reward | str | Mapping[str, Any]],
    dataset: Data,
    *,
    evaluation: Mapping[str, Any] | None = None,
    accept_changes: bool = False,
) -> TrainResult:
    """Train with GRPO and return where the model is and the last step's metrics.

    The same call goes on where an interrupted one stopped.

    Args:
        config: a `TrainConfig`, its dict, or a YAML file of it.
        rewards: functions with TRL's signature, `Reward`s (name, function, weight, columns), or what a YAML config
            may say: "accuracy", "my_module.my_reward", {"fn": ..., "weight": ..., "kwargs": ...}.
        dataset: rows (prompt | question | problem | messages, answer | gold | solution, your own columns), a
            file, folder or hub name, or a `DataConfig` (template, system message, length limit). Where
            a reward compares with the gold, rows whose gold cannot be read are left out, with a warning.
        evaluation: held-out problems that the policy is asked every N steps, and the last model at the end:
            {"data": rows or a file, "every": 10}, and what `evaluate` takes (samples, temperature, top_p, max_tokens:
            that of the training unless given), `k`, and `accuracy`, one of the kinds of `rewards`. pass@1 with its
            interval goes into metrics.jsonl, as eval/pass@1; the weights are the same with it and without.
        accept_changes: go on from a checkpoint that was made with other settings, rewards or data.

    Raises:
        UserError: one line that says what is wrong and where.
    """
    settings = _settings(config)
    loaded = _rewards(rewards)
    data, rows = _data(dataset)
    apply_runtime(settings.runtime, settings.seed)
    with dated(Path(settings.out)):
        tokenizer = load_tokenizer(settings.model)
        prompts = build_prompts(load_rows(data) if rows is None else rows, data, tokenizer)
        task = Task(judgeable(prompts, loaded, f"data '{data.path or data.fn}'"), loaded)
        curve = None if evaluation is None else _curve(evaluation, settings, tokenizer)
        return train_tasks(settings, {"default": task}, accept_changes=accept_changes, curve=curve)


def evaluate(
    model: str | Path | tuple[Any, Any],
    data: Data,
    *,
    samples: int = 1,
    temperature: float = 0.6,
    top_p: float = 0.95,
    max_tokens: int | None = None,
    seed: int = 0,
    engine: EngineConfig | None = None,
    runtime: RuntimeConfig | None = None,
) -> EvalResult:
    """pass@1 with its interval on a problem set; `result["pass@1"]`, `result.metrics`, `result.problems`.

    `model` is a folder, a hub name, or a loaded (model, tokenizer). The answer is read as the `accuracy` reward does.
    `max_tokens` None: 1024, or the fewer that the model has positions for after the longest prompt.
    """
    source, rows = _data(data)
    settings = {"samples": samples, "temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
    config = validate(EvalConfig, {"data": source, **settings}, "grpo.evaluate")
    judges = Judges(load_reward("accuracy"), extract_answer=extract_answer)
    if runtime is not None:
        apply_runtime(runtime, seed)
    return evaluate_with(
        model if isinstance(model, tuple) else str(model),
        config,
        judges=judges,
        engine=engine,
        runtime=runtime,
        seed=seed,
        rows=rows,
    )


class HeldOutConfig(EvalConfig):
    """What `train` is told of its `evaluation`."""

    every: CurveConfig

    @model_validator(mode="after")
    def _asked(self) -> "HeldOutConfig":
        for name in changed(self, ("format", "language")):
            raise ValueError(f"'{name}' is of a recipe: give an 'accuracy' that wants of an answer what you want of it")
        self.of_curve(self.every)
        return self


def _curve(evaluation: Mapping[str, Any], settings: TrainConfig, tokenizer: Any) -> Curve:
    if not isinstance(evaluation, Mapping) or "data" not in evaluation:
        raise UserError('evaluation: give {"data": held-out rows or a file of them, "every": steps}')
    told = {"max_tokens": int(settings.sampling.max_tokens), **evaluation}
    judge = told.pop("accuracy", None)
    data, rows = _data(told.pop("data"))
    config = validate(HeldOutConfig, {"data": data, **told}, "evaluation")
    if judge is None:
        judges = Judges(load_reward("accuracy"), extract_answer=extract_answer)
    else:
        judges = Judges(_rewards([judge])[0])
    return Curve.of(config, config.every, judges, tokenizer, rows)


def _settings(config: TrainConfig | dict[str, Any] | str | Path) -> TrainConfig:
    if isinstance(config, TrainConfig):
        return config
    return validate(TrainConfig, config, "config") if isinstance(config, dict) else read_config(TrainConfig, config)


def _data(data: Data) -> tuple[DataConfig, list[Row] | None]:
    """How rows are read, and those handed in; None when they are to be read."""
    if isinstance(data, DataConfig):
        return data, None
    return (
        (DataConfig(path=str(data)), None) if isinstance(data, str | Path) else (DataConfig(path=IN_MEMORY), list(data))
    )


def _rewards(rewards: Sequence[Any]) -> list[Reward]:
    if not isinstance(rewards, Sequence) or isinstance(rewards, str) or not rewards:
        raise UserError(f"rewards: give a list with at least one reward, not {rewards!r}")
    for reward in rewards:
        if isinstance(reward, Reward) and not callable(reward.fn):
            raise UserError(f"reward '{reward.name}': {type(reward.fn).__name__} is not a function")
    return [reward if isinstance(reward, Reward) else load_reward(reward) for reward in rewards]
