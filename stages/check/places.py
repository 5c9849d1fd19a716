"""Checks of each place where a config names rewards, data or prompts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from grpo.config.data import DataConfig, RewardConfig
from grpo.data.rows import Row
from grpo.errors import UserError
from grpo.system.service import Service
from rewards.judge import Judge
from rewards.loader import find_reward
from stages.check import prompts
from stages.check.rewards import rewards_on_synthetic
from stages.check.subject import BaseModel, Check, Skipped, Subject
from stages.check.tokenizer import read_back
from stages.recipe.ahead import RUN, Asked, asks_teacher, on_hub, places, rows_ahead
from stages.recipe.config import find
from stages.recipe.preflight import check_function, check_reward, check_source, folders_before
from stages.teacher import first_answer, teacher


def reward_checks(subject: Subject) -> Iterator[Check]:
    """Every reward is found and takes its arguments."""
    config = subject.config
    for path, spec in find(config, RewardConfig):
        made = folders_before(config, path.partition(".")[0])
        yield f"reward {path} ({spec.fn})", partial(_reward, spec, subject.run, made)
    if config.evaluation.leak_check is not None:
        yield "evaluation.leak_check", partial(_leak_check, config.evaluation.leak_check)


def data_checks(subject: Subject) -> Iterator[Check]:
    """Every source is there and can be read."""
    for path, data in find(subject.config, DataConfig):
        if asks_teacher(data):
            yield f"teacher {path}", partial(teacher, **data.kwargs)
        yield f"data {path}", partial(_data, subject, data)


def conversation_checks(subject: Subject) -> Iterator[Check]:
    """Of what supervised stages train on."""
    for path, rows, data, section, model in conversations(subject):
        yield f"conversations {path}", partial(prompts.conversations, rows, data, section, model)


def conversations(subject: Subject) -> Iterator[tuple[str, list[Row], DataConfig, Any, BaseModel]]:
    """(path, rows, data section, stage's section, model) of what supervised stages train on."""
    for key, name in (("cold_start", "data"), ("rejection_sampling", "general")):
        section: Any = getattr(subject.config, key)
        data: Any = section and getattr(section, name)
        rows = subject.rows(data) if data is not None else None
        if rows is not None and subject.model is not None:
            yield f"{key}.{name}", rows, data, section, subject.model


def leak_checks(subject: Subject) -> Iterator[Check]:
    """Of everything that a stage trains on, where the evaluation's problems are at hand."""
    evaluation = subject.config.evaluation
    judged = [data for _, data in find(evaluation, DataConfig)]
    if not judged or any(subject.rows(data) is None for data in judged) or not _is_function(evaluation.leak_check):
        return
    for path, data in find(subject.config, DataConfig):
        rows = subject.rows(data)
        if not path.startswith("evaluation.") and rows is not None:
            yield f"leaks {path}", partial(prompts.leaks, subject, path, rows)
            if evaluation.decontaminate is not None:
                yield f"near copies of evaluation problems in {path}", partial(prompts.near_copies, subject, rows)


def _is_function(path: str | None) -> bool:
    try:
        return path is None or bool(_leak_check(path))
    except UserError:  # said by its own check
        return False


def place_checks(subject: Subject) -> Iterator[Check]:
    """Of every place where prompts are sampled from."""
    for asked in places(subject.config):
        yield from prompt_checks(subject, asked)


def prompt_checks(subject: Subject, asked: Asked) -> Iterator[Check]:
    """Golds, prompts and rewards of one place; only the golds need no model."""
    rows = subject.rows(asked.data)
    if rows is None:
        return
    if asked.graded is not None:
        yield f"golds {asked.path}.data", partial(prompts.golds, asked, rows)
    try:
        rendered = prompts.render_prompts(subject, asked, rows)
    except (UserError, Skipped) as error:
        yield f"prompts {asked.path}", partial(_fail, error)
        return
    for name, check in {**prompts.CHECKS, "texts": read_back}.items():
        yield f"{name} {asked.path}", partial(check, rendered)
    if asked.rewards:
        yield f"rewards tried {asked.path}", partial(rewards_on_synthetic, rendered)


def _fail(error: UserError | Skipped) -> str:
    raise error


def _reward(spec: RewardConfig, run: Path, made: list[str] | None) -> str:
    check_reward(spec, run, made)
    if find_reward(spec)[1] is Judge:
        return f"asks {Service.chosen(spec.kwargs.get('base_url'), spec.kwargs.get('key_env'))}"
    return "needs a model of the run, loaded by its stage" if RUN in str(spec.kwargs) else ""


def _leak_check(path: str) -> str:
    check_function(path)
    return path


def _data(subject: Subject, data: DataConfig) -> str:
    check_source(data)
    if asks_teacher(data):
        return first_answer(**data.kwargs)
    rows = rows_ahead(data, subject.run) if subject.rows(data) is None else subject.rows(data)  # it says why
    if rows is None:
        raise Skipped(f"hub data set '{data.path}', not fetched" if on_hub(data) else "its stage reads it")
    return f"{len(rows)} rows"
