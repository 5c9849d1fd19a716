"""`grpo view`: what a run sampled, step by step, and its page."""

from __future__ import annotations

import argparse
import io
import sys

from grpo.errors import UserError, visible
from grpo.system.console import SafeConsole, say
from grpo.system.files import write_text
from stages.commands.common import Parser
from stages.recipe.output import check_out_file
from stages.view.browse import State, seek
from stages.view.filters import Filters, read_condition
from stages.view.page import page
from stages.view.run_folder import StageFolder, choose_stage, no_step, open_run, stage_with_completions
from stages.view.screen import browse
from stages.view.terminal import step_view

EXAMPLES = """\
  grpo view runs/tiny                                      the last step; keys: n p j k g / f ? q
  grpo view runs/tiny --stage reasoning_rl --step 40 | less
  grpo view runs/tiny --reward 'accuracy<0.5' --reward 'reward>1' --text sorry
  grpo view runs/tiny --html page.html                     curves, table, samples in one file
NAME in --reward: a reward, "reward" (the total) or "advantage"; relations < <= > >= = !=; =none: not defined"""
PIPE_LIMIT = 4  # prompts shown where nobody can turn the page


def view_command(arguments: list[str]) -> int:
    """`grpo view`."""
    description = "Look at the completions, rewards and advantages of a run, or make its page."
    parser = Parser("grpo view", description, EXAMPLES)
    parser.add_argument("run", metavar="RUN", help="a run folder, or one stage of it")
    parser.add_argument("--stage", metavar="NAME", help="(default: the last with completions; of a page: all)")
    parser.add_argument(
        "--step", type=int, metavar="N", help="(default: the last, with a filter the last that matches)"
    )
    parser.add_argument("--reward", action="append", metavar="'NAME<NUMBER'", help="only such completions; repeatable")
    parser.add_argument("--text", metavar="TEXT", help="only with this in prompt or completion, in any case")
    parser.add_argument("--limit", type=int, metavar="K", help=f"prompts of a step (default: {PIPE_LIMIT} in a pipe)")
    parser.add_argument("--html", metavar="FILE", help="write a page of the whole run instead")
    chosen = parser.read(arguments)
    (_show if chosen.html is None else _write_page)(chosen)
    return 0


def _write_page(chosen: argparse.Namespace) -> None:
    for option in ("step", "reward", "text", "limit"):
        if getattr(chosen, option) is not None:
            raise UserError(f"--{option}: not with --html, whose page shows whole stages; give --stage or neither")
    file = check_out_file(chosen.html, "--html", "page.html")
    stages = open_run(chosen.run)
    shown = stages if chosen.stage is None else [choose_stage(stages, chosen.stage)]
    write_text(file, page(chosen.run, stages, shown))
    say(f"written: {file}")


def _show(chosen: argparse.Namespace) -> None:
    if chosen.limit is not None and chosen.limit < 1:
        raise UserError(f"--limit {chosen.limit}: show at least 1 prompt")
    if chosen.text is not None and not chosen.text:
        raise UserError("--text '': give the text to look for")

    stage = stage_with_completions(open_run(chosen.run), chosen.stage)
    step, filters = _start(stage, chosen)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that is not UTF-8 shows what it lacks as \uXXXX
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stdout.isatty():
        browse(SafeConsole(highlight=False), stage, State(step, filters, chosen.limit))
        return
    console = SafeConsole(highlight=False)
    for part in step_view(stage, step, filters, chosen.limit or PIPE_LIMIT, console.width):
        console.print(part)


def _start(stage: StageFolder, chosen: argparse.Namespace) -> tuple[int, Filters]:
    """The step to begin with, and what is shown of it."""
    steps = stage.steps()
    if chosen.step is not None and chosen.step not in steps:
        raise UserError(f"--step {chosen.step}: {no_step(stage, chosen.step)}")
    step = steps[-1] if chosen.step is None else chosen.step
    known = stage.reward_names(step)
    filters = Filters(tuple(read_condition(text, known) for text in chosen.reward or ()), visible(chosen.text or ""))
    if chosen.step is None and filters:
        step = seek(stage, steps[-1] + 1, -1, filters) or step
    return step, filters
