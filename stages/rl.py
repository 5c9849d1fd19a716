"""What the RL stages share: each task's data and rewards, then the trainer."""

from __future__ import annotations

import logging
from typing import Any

from grpo.data import ANSWER_COLUMNS, build_prompts, load_rows, rows_hash, write_jsonl
from grpo.errors import UserError
from grpo.policy import load_tokenizer
from grpo.prompts import Task
from grpo.scoring import Reward
from grpo.trainer import train
from grpo.types import Prompt
from rewards.accuracy import gold_is_parseable
from rewards.loader import load_reward
from stages.config import RLStageConfig, TaskConfig
from stages.stage import StageContext

log = logging.getLogger("grpo")


def run_rl(context: StageContext, config: RLStageConfig, label: str) -> dict[str, Any]:
    """GRPO from `context.init` on the section's tasks; leaves model/, metrics.jsonl, completions/ and data/."""
    tokenizer = load_tokenizer(context.init)
    tasks: dict[str, Task] = {}
    hashes: dict[str, str] = {}
    for name, task in config.tasks.items():
        rows = load_rows(task.data)
        write_jsonl(context.folder / "data" / f"{name}.jsonl", rows)
        hashes[name] = rows_hash(rows)
        prompts = judgeable(build_prompts(rows, task.data, tokenizer, name), task, name)
        tasks[name] = Task(prompts, _rewards(task, context), task.share, task.last_steps)
    result = train(
        context.init,
        tasks,
        config,
        context.folder,
        seed=context.config.seed,
        engine_config=context.config.engine,
        runtime=context.config.runtime,
        label=label,
    )
    return {"steps": result.steps, "tokens": result.tokens, "data_hashes": hashes, "final": result.metrics}


def judgeable(prompts: list[Prompt], task: TaskConfig, name: str) -> list[Prompt]:
    """Where accuracy is rewarded, only the prompts whose gold can be read: the others would stop the run later."""
    if all(spec.fn != "accuracy" for spec in task.rewards):
        return prompts
    kept = [prompt for prompt in prompts if gold_is_parseable(prompt.answer)]
    source = task.data.path or task.data.fn
    if not kept:
        golds = ", ".join(ANSWER_COLUMNS)
        raise UserError(f"task '{name}': no row of data '{source}' has a gold that can be read (columns {golds})")
    if len(kept) < len(prompts):
        log.warning("task '%s': %d of %d golds cannot be read: dropped", name, len(prompts) - len(kept), len(prompts))
    return kept


def _rewards(task: TaskConfig, context: StageContext) -> list[Reward]:
    """The task's rewards; ``{run}`` in their arguments is this run's folder (reward models trained by it)."""
    run = str(context.folder.parent)
    return [load_reward(spec.model_copy(update={"kwargs": _place(spec.kwargs, run)})) for spec in task.rewards]


def _place(value: Any, run: str) -> Any:
    if isinstance(value, str):
        return value.replace("{run}", run)
    if isinstance(value, dict):
        return {key: _place(item, run) for key, item in value.items()}
    return value
