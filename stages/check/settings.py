"""Checks of the settings: what this machine and the engine can do, what does nothing, and how much a run sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from grpo.config.data import MOST_TOKENS, EvalConfig
from grpo.config.inert import inert_engine_settings, inert_settings
from grpo.config.training import RLConfig, SFTConfig
from grpo.supervised.length import length_of
from stages.check.subject import Check, Subject, Warned
from stages.recipe.config import RecipeConfig, RLStageConfig, find
from stages.recipe.machine import check_device, engine_of, machine_checks
from stages.recipe.table import active_stages

NARROW = 0.1  # half of an interval of pass@1 from which it says little
SAMPLES_ENOUGH = 8  # a problem: more of them make up for few problems


def setting_checks(subject: Subject) -> Iterator[Check]:
    config = subject.config
    yield "engine", partial(_engine, config)
    for path, check in machine_checks(config, [stage.key for stage in active_stages(config)]):
        yield f"this machine: {path}", partial(_quiet, check)
    yield "this machine: runtime", partial(_quiet, partial(check_device, config))
    for kind in (RLConfig, SFTConfig):
        for path, section in find(config, kind):
            yield f"steps of {path}", partial(_steps, section)
            yield f"passes of {path}", partial(_passes, subject, path, section)
            if isinstance(section, RLConfig):
                yield f"settings of {path}", partial(_inert, config, section)
    if config.evaluation.math is None:
        yield "evaluation", partial(_no_problems, config)
    for path, one in find(config.evaluation, EvalConfig, "evaluation"):
        yield f"size of {path}", partial(_problems, subject, one)
        yield f"length of {path}", partial(_length, config, one)


def _engine(config: RecipeConfig) -> str:
    from grpo.engines.choose import chosen

    kind = engine_of(config)
    return f"auto is '{kind}' here, for {chosen(config.runtime)[1]}" if config.engine.kind == "auto" else kind


def _quiet(check: Callable[[], None]) -> str:
    check()
    return ""


def _inert(config: RecipeConfig, section: RLConfig) -> str:
    """As the run says it."""
    from grpo.model.loading.device import pick_device

    kind, lora = engine_of(config), section.lora is not None
    on_gpu = pick_device(config.runtime).type == "cuda"
    shared = kind == "local" and not config.engine.ahead and config.runtime.parallel != "fsdp"
    said = inert_settings(section, shared) + inert_engine_settings(config.engine, kind, lora=lora, on_gpu=on_gpu)
    if said:
        raise Warned(f"this does nothing: {'; '.join(said)}")
    return ""


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


def _passes(subject: Subject, path: str, section: Any) -> str:
    """How often the steps go through the data, where its rows are known."""
    if isinstance(section, RLStageConfig):
        return _rl_passes(subject, section)
    rows = None if section.data is None else subject.rows(section.data)
    if rows is None or path == "rejection_sampling":  # what it trains on is still to be sampled
        return ""
    length = length_of(section, len(rows))
    text = f"{length.steps} steps of {length.config.batch_size} are {length.passes:.3g} passes over {len(rows)} rows"
    if length.remarks:
        raise Warned(f"{text}; {'; '.join(length.remarks)}")
    return text


def _rl_passes(subject: Subject, section: RLStageConfig) -> str:
    """By the shares of the tasks that are there all along."""
    said, few = [], []
    whole = sum(task.share for task in section.tasks.values() if task.last_steps is None)
    drawn = section.rollout_prompts or section.prompts_per_step
    for name, task in section.tasks.items():
        rows = subject.rows(task.data)
        if rows is None or task.last_steps is not None:
            continue
        prompts = drawn * task.share / whole
        passes = section.steps / section.updates_per_rollout * prompts / len(rows)
        said.append(f"{passes:.3g} passes over {len(rows)} rows of '{name}'")
        if len(rows) < prompts:
            few.append(name)
    text = f"{section.steps} steps are {', '.join(said)}" if said else ""
    if few:
        raise Warned(f"{text}: one rollout takes the prompts of '{few[0]}' several times")
    return text


def _no_problems(config: RecipeConfig) -> str:
    missing = "no 'math', so no pass@1" if config.evaluation.general else "none in the config"
    return f"{missing}: the table will have empty cells"


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


def _length(config: RecipeConfig, math_eval: EvalConfig) -> str:
    """Answers that training may write are cut by a shorter evaluation."""
    own = math_eval.max_tokens or MOST_TOKENS
    limits = {path: section.sampling.max_tokens for path, section in find(config, RLStageConfig)}
    longer = [f"{path}.sampling.max_tokens={limit}" for path, limit in limits.items() if limit > own]
    if longer:
        raise Warned(f"max_tokens={own} is less than {', '.join(longer)}: longer answers count as wrong")
    return ""
