"""What the stages that train share: their section's rows, kept in data/ and checked for leaks, go to a core trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from grpo.config.training import TrainConfig
from grpo.data.rows import Row, load_rows, rows_hash
from stages.recipe.config import RLStageConfig, TaskConfig
from stages.recipe.ends import check_stops, renders_chat
from stages.recipe.preflight import in_run
from stages.recipe.table import StageContext

if TYPE_CHECKING:  # the libraries read what `quiet` sets when they are imported: in the functions below
    from grpo.data.conversations import Part
    from grpo.rollout.sampler import Task
    from grpo.scoring.table import Reward
    from grpo.supervised import Training

RewardKind = Literal["pairwise", "pointwise"]


def train_rl(context: StageContext, label: str) -> dict[str, Any]:
    """GRPO from `context.init` on the section's tasks; leaves model/, metrics.jsonl, completions/ and data/."""
    from grpo.trainer import train
    from stages.recipe.evaluation import load_curve

    hashes: dict[str, str] = {}

    def keep(name: str, rows: Sequence[Row]) -> list[Row]:
        kept = context.write_data(name, rows)
        hashes[name] = rows_hash(kept)
        return kept

    settings, tasks = rl_training(context, context.folder, keep)
    curve = load_curve(context.config.evaluation, context.init)
    result = train(settings, tasks, label=label, accept_changes=context.accept_changes, curve=curve)
    return {
        "steps": result.steps,
        "applied_steps": result.applied_steps,
        "tokens": result.tokens,
        "data_hashes": hashes,
        "final": result.metrics,
    }


def rl_training(
    context: StageContext, out: Path, keep: Callable[[str, Sequence[Row]], list[Row]]
) -> tuple[TrainConfig, dict[str, Task]]:
    """What an RL stage trains on, into `out`. `keep`: of a task's rows those that may be trained on."""
    from grpo.data.prompts import build_prompts
    from grpo.model.loading.tokenizer import load_tokenizer
    from grpo.rollout.sampler import Task
    from rewards.rows import judgeable

    config, section = context.config, context.section
    assert isinstance(section, RLStageConfig)
    tokenizer = load_tokenizer(context.init)
    if renders_chat(section):
        check_stops(context.init, tokenizer, context.key)
    tasks: dict[str, Task] = {}
    for name, task in section.tasks.items():
        rows = keep(name, load_rows(task.data))
        rewards = task_rewards(task, context)
        source = f"task '{name}', data '{task.data.path or task.data.fn}'"
        prompts = judgeable(build_prompts(rows, task.data, tokenizer, name), rewards, source)
        tasks[name] = Task(prompts, rewards, task.share, task.last_steps)
    if (distill := section.loss.distill) is not None:  # a teacher that an earlier stage trained
        distill = distill.model_copy(update={"model": in_run(distill.model, context.folder.parent)})
        section = section.model_copy(update={"loss": section.loss.model_copy(update={"distill": distill})})
    settings = TrainConfig.of(
        section, model=context.init, out=str(out), seed=config.seed, engine=config.engine, runtime=config.runtime
    )
    return settings, tasks


def task_rewards(task: TaskConfig, context: StageContext) -> list[Reward]:
    """The task's rewards; ``{run}`` in their arguments is this run's folder (reward models trained by it). Reward
    models run where the policy does."""
    from rewards.loader import load_reward

    rewards = []
    for spec in task.rewards:
        device = {"device": context.config.runtime.device} if spec.fn == "reward_model" else {}
        kwargs = {**device, **in_run(spec.kwargs, context.folder.parent)}
        rewards.append(load_reward(spec.model_copy(update={"kwargs": kwargs})))
    return rewards


def train_reward(context: StageContext, kind: RewardKind, part: Part, title: str) -> dict[str, Any]:
    """Leaves model/ (a sequence classifier with one output), metrics.jsonl and data/preferences.jsonl.

    `part`: what of a response the model reads, "answer" or the whole "response".
    """
    from grpo.supervised.reward_model import Pairwise, Pointwise, train_reward_model

    rows = load_rows(context.section.data)
    rows = context.write_data("preferences", rows)
    chosen = Pairwise if kind == "pairwise" else Pointwise
    numbers = train_reward_model(chosen, context.init, rows, part, training_of(context, title))
    return {**numbers, "data_hashes": {"preferences": rows_hash(rows)}}


def train_sft(context: StageContext, model: str, rows: Sequence[Row], title: str) -> dict[str, Any]:
    """Supervised training of `model` on conversations; leaves model/, metrics.jsonl and data/sft.jsonl."""
    from grpo.supervised.sft import supervised

    return supervised(model, rows, training_of(context, title))


def training_of(context: StageContext, title: str) -> Training:
    """What the supervised training of a stage is told."""
    from grpo.supervised import Training

    config = context.config
    return Training(context.section, context.folder, config.seed, config.runtime, title, context.accept_changes)
