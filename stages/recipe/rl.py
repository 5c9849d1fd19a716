"""What the RL stages share: each task's data and rewards, then the trainer."""

from __future__ import annotations

from typing import Any

from grpo.config.training import TrainConfig
from grpo.data.prompts import build_prompts
from grpo.data.rows import load_rows, rows_hash
from grpo.model.policy import load_tokenizer
from grpo.rollout.sampler import Task
from grpo.scoring.groups import Reward
from grpo.trainer import train
from rewards.loader import load_reward
from rewards.rows import judgeable
from stages.recipe.config import RLStageConfig, TaskConfig
from stages.recipe.preflight import in_run
from stages.recipe.table import StageContext


def run_rl(context: StageContext, config: RLStageConfig, label: str) -> dict[str, Any]:
    """GRPO from `context.init` on the section's tasks; leaves model/, metrics.jsonl, completions/ and data/."""
    tokenizer = load_tokenizer(context.init)
    tasks: dict[str, Task] = {}
    hashes: dict[str, str] = {}
    for name, task in config.tasks.items():
        rows = load_rows(task.data)
        context.write_data(name, rows)
        hashes[name] = rows_hash(rows)
        rewards = _rewards(task, context)
        source = f"task '{name}', data '{task.data.path or task.data.fn}'"
        prompts = judgeable(build_prompts(rows, task.data, tokenizer, name), rewards, source)
        tasks[name] = Task(prompts, rewards, task.share, task.last_steps)
    recipe = context.config
    settings = TrainConfig.of(
        config,
        model=context.init,
        out=str(context.folder),
        seed=recipe.seed,
        engine=recipe.engine,
        runtime=recipe.runtime,
    )
    result = train(settings, tasks, label=label, accept_changes=context.accept_changes)
    return {"steps": result.steps, "tokens": result.tokens, "data_hashes": hashes, "final": result.metrics}


def _rewards(task: TaskConfig, context: StageContext) -> list[Reward]:
    """The task's rewards; ``{run}`` in their arguments is this run's folder (reward models trained by it). Reward
    models run where the policy does."""
    run = context.folder.parent
    rewards = []
    for spec in task.rewards:
        own = {"device": context.config.runtime.device} if spec.fn == "reward_model" else {}
        rewards.append(load_reward(spec.model_copy(update={"kwargs": {**own, **in_run(spec.kwargs, run)}})))
    return rewards
