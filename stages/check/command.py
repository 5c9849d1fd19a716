"""`grpo check`: what can be wrong before spending compute. One line a check, exit 2 when one of them is an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from grpo.config.data import DataConfig, EvalConfig, RewardConfig
from grpo.config.file import read_config
from grpo.config.training import RLConfig, SFTConfig
from grpo.data.rows import load_rows
from grpo.errors import UserError
from grpo.system.runtime import quiet
from stages.check import prompts
from stages.check.model import model_checks
from stages.check.rewards import rewards_on_synthetic
from stages.check.shown import show
from stages.check.subject import Asked, Check, Skipped, Subject, Warned, on_hub
from stages.commands.common import Parser, add_overrides, find_config, reason
from stages.recipe.config import RecipeConfig, find
from stages.recipe.preflight import RUN, check_function, check_reward, check_source, folders_before

EXAMPLES = "  grpo check my.yaml\n  grpo check tiny.yaml reasoning_rl.group_size=8"
NARROW = 0.1  # half of an interval of pass@1 from which it says little
SAMPLES_ENOUGH = 8  # a problem: more of them make up for few problems


def check_command(arguments: list[str]) -> int:
    """`grpo check`."""
    parser = Parser(
        "grpo check",
        "Check a config, its data, rewards, model and prompts before spending compute; show a prompt of each task.",
        EXAMPLES,
    )
    parser.add_argument("config", metavar="CONFIG")
    add_overrides(parser)
    chosen = parser.read(arguments)
    config = read_config(RecipeConfig, find_config(chosen.config), chosen.overrides)
    quiet("error")
    print(f"ok       config: {chosen.config}")
    subject = Subject(config, Path("runs") / Path(chosen.config).stem)
    worst = max([run_check(name, check) for name, check in all_checks(subject)], default=0)
    for text in shown_prompts(subject):
        print(f"\n{text}", flush=True)
    return worst


def run_check(name: str, check: Callable[[], str]) -> int:
    """Print what came of one check; 2 when it is an error."""
    state, text = "ok", ""
    try:
        text = check()
    except Warned as warning:
        state, text = "warning", str(warning)
    except Skipped as skipped:
        state, text = "skipped", str(skipped)
    except UserError as error:
        state, text = "error", " ".join(str(error).split())
    except OSError as error:
        state, text = "error", reason(error)
    print(f"{state:<8} {name}{': ' if text else ''}{text}", flush=True)
    return 2 if state == "error" else 0


def all_checks(subject: Subject) -> Iterator[Check]:
    """(name, check); a check returns what it saw, or raises `Warned`, `Skipped` or `UserError`."""
    config = subject.config
    yield from setting_checks(subject)
    for path, spec in find(config, RewardConfig):
        made = folders_before(config, path.partition(".")[0])
        yield f"reward {path} ({spec.fn})", partial(_reward, spec, subject.run, made)
    if config.evaluation.leak_check is not None:
        yield "evaluation.leak_check", partial(_leak_check, config.evaluation.leak_check)
    yield from model_checks(subject)
    for path, data in find(config, DataConfig):
        yield f"data {path}", partial(_data, subject, data)
    yield from conversation_checks(subject)
    yield from leak_checks(subject)
    for asked in subject.asked():
        yield from prompt_checks(subject, asked)


def setting_checks(subject: Subject) -> Iterator[Check]:
    config = subject.config
    for kind in (RLConfig, SFTConfig):
        for path, section in find(config, kind):
            yield f"steps of {path}", partial(_steps, section)
    yield "size of evaluation.math", partial(_problems, subject, config.evaluation.math)


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
    for name, check in prompts.CHECKS.items():
        yield f"{name} {asked.path}", partial(check, rendered)
    if asked.rewards:
        yield f"rewards tried {asked.path}", partial(rewards_on_synthetic, rendered)


def _fail(error: UserError | Skipped) -> str:
    raise error


def shown_prompts(subject: Subject) -> Iterator[str]:
    """One of each place where prompts are sampled from; of equal ones the first."""
    seen: set[str] = set()
    for asked in subject.asked():
        rows = subject.rows(asked.data)
        if rows is None:
            continue
        try:
            rendered = prompts.render_prompts(subject, asked, rows)
        except (UserError, Skipped):  # said by its check
            continue
        text = rendered.prompts[0].text or ""
        if text not in seen:
            seen.add(text)
            yield show(rendered)


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
