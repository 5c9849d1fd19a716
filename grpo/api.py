"""The library as two calls, for scripts and notebooks; the command line and the stages use what is underneath."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from grpo.config import DataConfig, EngineConfig, EvalConfig, RuntimeConfig, TrainConfig, read_config, validate
from grpo.data import Row, build_prompts, load_rows
from grpo.eval_metrics import Judges
from grpo.evaluate import EvalResult
from grpo.evaluate import evaluate as evaluate_with
from grpo.imports import import_path
from grpo.policy import load_tokenizer
from grpo.prompts import Task
from grpo.scoring import Reward
from grpo.trainer import TrainResult
from grpo.trainer import train as train_tasks

IN_MEMORY = "rows.jsonl"  # the name that rows handed in get in messages
# The core does not import the rewards; what judges an evaluation by default is named by path, as in a config.
ACCURACY, EXTRACT = "rewards.accuracy.accuracy_reward", "rewards.accuracy.extract_answer"


def train(
    config: TrainConfig | dict[str, Any] | str | Path,
    rewards: Sequence[Callable[..., Any] | Reward],
    dataset: Sequence[Row] | str | DataConfig,
) -> TrainResult:
    """Train with GRPO and return where the model is and the last step's metrics.

    Args:
        config: a `TrainConfig`, its dict, or a YAML file of it.
        rewards: functions with TRL's signature, or `Reward`s (name, function, weight, columns).
        dataset: rows (prompt | question | problem | messages, answer | gold | solution, your own columns), a
            .jsonl/.parquet file or hub name, or a `DataConfig` (template, system message, length limit).

    Raises:
        UserError: one line that says what is wrong and where.
    """
    settings = _settings(config)
    data = _data(dataset)
    rows = load_rows(data) if isinstance(dataset, str | DataConfig) else list(dataset)
    prompts = build_prompts(rows, data, load_tokenizer(settings.model))
    task = Task(prompts, [_reward(reward) for reward in rewards])
    return train_tasks(
        settings.model,
        {"default": task},
        settings,
        Path(settings.out),
        seed=settings.seed,
        engine_config=settings.engine,
        runtime=settings.runtime,
    )


def evaluate(
    model: str | Path | tuple[Any, Any],
    data: Sequence[Row] | str | DataConfig,
    *,
    samples: int = 1,
    temperature: float = 0.6,
    top_p: float = 0.95,
    max_tokens: int = 1024,
    seed: int = 0,
    engine: EngineConfig | None = None,
    runtime: RuntimeConfig | None = None,
) -> EvalResult:
    """pass@1 with its interval on a problem set; `result["pass@1"]`, `result.metrics`, `result.problems`.

    `model` is a folder, a hub name, or a loaded (model, tokenizer). The answer is read as the `accuracy` reward does.
    """
    source = _data(data)
    config = EvalConfig(data=source, samples=samples, temperature=temperature, top_p=top_p, max_tokens=max_tokens)
    judges = Judges(Reward("accuracy", import_path(ACCURACY)), extract_answer=import_path(EXTRACT))
    return evaluate_with(
        model if isinstance(model, tuple) else str(model),
        config,
        judges=judges,
        engine=engine,
        runtime=runtime,
        seed=seed,
        rows=None if isinstance(data, str | DataConfig) else list(data),
    )


def _settings(config: TrainConfig | dict[str, Any] | str | Path) -> TrainConfig:
    if isinstance(config, TrainConfig):
        return config
    return validate(TrainConfig, config, "config") if isinstance(config, dict) else read_config(TrainConfig, config)


def _data(data: Sequence[Row] | str | DataConfig) -> DataConfig:
    if isinstance(data, DataConfig):
        return data
    return DataConfig(path=data if isinstance(data, str) else IN_MEMORY)


def _reward(reward: Callable[..., Any] | Reward) -> Reward:
    return reward if isinstance(reward, Reward) else Reward(getattr(reward, "__name__", type(reward).__name__), reward)
