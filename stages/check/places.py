"""Checks of what a config says, and of each place where it names rewards, data or prompts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from grpo.config.data import DataConfig, EvalConfig, RewardConfig
from grpo.config.training import RLConfig, SFTConfig
from grpo.data.rows import load_rows
from grpo.errors import UserError
from stages.check import prompts
from stages.check.rewards import rewards_on_synthetic
from stages.check.subject import Asked, Check, Skipped, Subject, Warned, on_hub
from stages.check.tokenizer import read_back
from stages.recipe.config import find
from stages.recipe.preflight import RUN, check_function, check_reward, check_source, folders_before

NARROW = 0.1  # half of an interval of pass@1 from which it says little
SAMPLES_ENOUGH = 8  # a problem: more of them make up for few problems


def setting_checks(subject: Subject) -> Iterator[Check]:
    config = subject.config
    for kind in (RLConfig, SFTConfig):
        for path, section in find(config, kind):
            yield f"steps of {path}", partial(_steps, section)
    if config.evaluation.math is not None:
        yield "size of evaluation.math", partial(_problems, subject, config.evaluation.math)
    else:
        yield "evaluation", _no_evaluation


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
        yield f"data {path}", partial(_data, subject, data)


def conversation_checks(subject: Subject) -> Iterator[Check]:
    """Of what supervised stages train on."""
    model = subject.model
    for key, name in (("cold_start", "data"), ("rejection_sampling", "general")):
        section: Any = getattr(subject.config, key)
        data: Any = section and getattr(section, name)
        rows = subject.rows(data) if data is not None else None
        if rows is not None and model is not None:
            yield f"conversations {key}.{name}", partial(prompts.conversations, rows, data, section, model)


def leak_checks(subject: Subject) -> Iterator[Check]:
    """Of everything that a stage trains on, where the evaluation's problems are at hand."""
    evaluation = subject.config.evaluation
    if evaluation.math is None:
        return
    judged = [evaluation.math.data, *([evaluation.general.data] if evaluation.general else [])]
    if any(subject.rows(data) is None for data in judged) or not _is_function(evaluation.leak_check):
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
    for asked in subject.asked():
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


def _no_evaluation() -> str:
    return "none in the config: the table will have empty cells"


def _steps(section: RLConfig | SFTConfig) -> str:
    """A shortened run may stop before some settings act: no error, but it should be known."""
    if section.steps is None:
        return ""
    every = section.reference_every if isinstance(section, RLConfig) else None
    settings = {"optimizer.warmup_steps": section.optimizer.warmup_steps, "reference_every": every or 0}
    late = [f"{name}={value}" for name, value in settings.items() if value >= section.steps]
    if late:
        raise Warned(f"{section.steps} steps do not reach {', '.join(late)}")
    return ""


def _problems(subject: Subject, config: EvalConfig) -> str:
    """Few problems with one sample each say little, whatever the point estimate."""
    rows = subject.rows(config.data)
    if rows is None:
        return ""
    half = 1.96 * 0.5 / len(rows) ** 0.5
    text = f"{len(rows)} problems, {config.samples} samples each"
    if half > NARROW and config.samples < SAMPLES_ENOUGH:
        raise Warned(f"{text}: the 95% interval of pass@1 may be ±{half:.0%} wide; take more samples or problems")
    return text


def _reward(spec: RewardConfig, run: Path, made: list[str] | None) -> str:
    check_reward(spec, run, made)
    return "needs a model of the run, loaded by its stage" if RUN in str(spec.kwargs) else ""


def _leak_check(path: str) -> str:
    check_function(path)
    return path


def _data(subject: Subject, data: DataConfig) -> str:
    check_source(data)
    if on_hub(data):
        raise Skipped(f"hub data set '{data.path}', not fetched")
    rows = subject.rows(data)
    return f"{len(load_rows(data) if rows is None else rows)} rows"  # what could not be loaded says why
