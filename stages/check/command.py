"""`grpo check`: what can be wrong before spending compute. One line a check, exit 2 when one of them is an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from grpo.config.file import read_config
from grpo.data.rendering import DATE, dated
from grpo.errors import UserError
from grpo.system.console import say
from grpo.system.runtime import quiet
from stages.check import prompts
from stages.check.model import model_checks
from stages.check.places import (
    conversation_checks,
    conversations,
    data_checks,
    leak_checks,
    place_checks,
    reward_checks,
)
from stages.check.sample import plan_sample, sample_stage
from stages.check.saving import saving_checks
from stages.check.settings import setting_checks
from stages.check.shown import show, show_trained
from stages.check.subject import Check, Skipped, Subject, Warned
from stages.check.tokenizer import tokenizer_checks
from stages.check.trained import training_checks
from stages.check.weights import weight_checks
from stages.commands.common import Parser, add_overrides, find_config, reason
from stages.recipe.ahead import places
from stages.recipe.config import RecipeConfig

EXAMPLES = """\
  grpo check my.yaml
  grpo check tiny.yaml reasoning_rl.group_size=8
  grpo check my.yaml --sample 32                        what the first stage of RL would live on, and cost
  grpo check my.yaml --sample 32 --stage helpfulness_rl --out runs/a
  grpo check my.yaml --sample 32 --init MODEL reasoning_rl.sampling.temperature=1.2"""
# Each gives (name, check) pairs. A check returns what it saw, or raises `Warned`, `Skipped` or `UserError`. What looks
# at something else (weights, tokenizers, rows) is a file beside this one with such a function, and one line here.
CHECKS: tuple[Callable[[Subject], Iterator[Check]], ...] = (
    setting_checks,
    reward_checks,
    weight_checks,
    tokenizer_checks,
    model_checks,
    saving_checks,
    data_checks,
    training_checks,
    conversation_checks,
    leak_checks,
    place_checks,
)


def check_command(arguments: list[str]) -> int:
    """`grpo check`."""
    parser = Parser(
        "grpo check",
        "Check a config, its data, rewards, model and prompts before spending compute; show a prompt of each task.",
        EXAMPLES,
    )
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="draw N prompts as a stage of RL would: what it could learn, and its cost",
    )
    parser.add_argument("--stage", metavar="STAGE", help="which stage of RL (default: the first)")
    parser.add_argument(
        "--init", metavar="MODEL", help="model folder, .gguf file or hub name (default: the stage's own)"
    )
    parser.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/<config name>)")
    add_overrides(parser)
    chosen = parser.read(arguments)
    for name in ("stage", "init") if chosen.sample is None else ():
        if getattr(chosen, name) is not None:
            raise UserError(f"--{name} is for --sample N")
    config = read_config(RecipeConfig, find_config(chosen.config), chosen.overrides)
    run = Path(chosen.out) if chosen.out else Path("runs") / Path(chosen.config).stem
    plan = None if chosen.sample is None else plan_sample(config, run, chosen.sample, chosen.stage, chosen.init)
    quiet("error")
    say(f"ok       config: {chosen.config}")
    subject = Subject(config, run)
    with dated(run if (run / DATE).is_file() else None):
        worst = max([run_check(name, check) for name, check in all_checks(subject)], default=0)
        if plan is None:
            for text in shown_texts(subject):
                say(f"\n{text}")
        elif worst:
            raise UserError("--sample: nothing was drawn, for the errors above")
        else:
            sample_stage(plan)
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
    say(f"{state:<8} {name}{': ' if text else ''}{text}")
    return 2 if state == "error" else 0


def all_checks(subject: Subject) -> Iterator[Check]:
    """(name, check) of everything, in the order it is printed."""
    for checks in CHECKS:
        yield from checks(subject)


def shown_texts(subject: Subject) -> Iterator[str]:
    """What is trained of a conversation, and one prompt of each place where prompts are sampled from; of equal ones the
    first."""
    for path, told, *_, model in conversations(subject):
        with suppress(UserError):  # said by its check
            yield show_trained(path, told, model)
    seen: set[str] = set()
    for asked in places(subject.config):
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
