"""Going through the steps of a stage: a pure state, changed by commands, drawn by `screen`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from grpo.errors import UserError
from stages.view.filters import Filters, read_condition
from stages.view.run_folder import SampleGroup, StageFolder, no_step

HELP = (
    "n/p next/previous step · j/k next/previous prompt · space/b page down/up · g N go to step N · "
    "/ TEXT only with it · f NAME<NUMBER only with such rewards (/ or f alone: all again) · q quit"
)

ASKS = {"g": "step: ", "/": "text: ", "f": "condition, such as accuracy<0.5: "}
NO_FILTERS = Filters()


class Command(NamedTuple):
    """A key, and what was typed after it ("g 12" is ("g", "12"))."""

    key: str
    argument: str = ""


@dataclass(frozen=True)
class State:
    """What is on the screen: the `prompt`-th prompt of a step, from its `line`-th line."""

    step: int
    filters: Filters = NO_FILTERS
    limit: int | None = None  # prompts of a step, None: all
    prompt: int = 0
    line: int = 0
    notice: str = ""  # said once
    done: bool = False


def groups_of(state: State, stage: StageFolder) -> list[SampleGroup]:
    """What the state shows of its step."""
    return state.filters.select(stage.groups(state.step))[: state.limit]


def press(state: State, command: Command, stage: StageFolder, page: int = 1) -> State:
    """The state after a command; `page`: lines of a page. A mistake changes nothing but the notice."""
    state, argument = replace(state, notice=""), command.argument.strip()
    try:
        match command.key:
            case "n" | "p" as key:
                return _turn(state, stage, 1 if key == "n" else -1)
            case "j" | "k" as key:
                return _other_prompt(state, stage, 1 if key == "j" else -1)
            case " " | "b" as key:
                return replace(state, line=max(0, state.line + (page if key == " " else -page)))
            case "g":
                return _go(state, stage, argument)
            case "/":
                return _filtered(state, stage, replace(state.filters, text=argument))
            case "f":
                return _filtered(state, stage, _with_condition(state, stage, argument))
            case "?":
                return replace(state, notice=HELP)
            case "q":
                return replace(state, done=True)
    except UserError as error:
        return replace(state, notice=str(error))
    return replace(state, notice=f"no command '{command.key}': {HELP}")


def seek(stage: StageFolder, step: int, direction: int, filters: Filters) -> int | None:
    """The nearest step before (-1) or after (1) with something that the filters leave; None when there is none."""
    steps = [there for there in stage.steps()[::direction] if (there - step) * direction > 0]
    return next((there for there in steps if not filters or filters.select(stage.groups(there))), None)


def _turn(state: State, stage: StageFolder, direction: int) -> State:
    step = seek(stage, state.step, direction, state.filters)
    if step is not None:
        return replace(state, step=step, prompt=0, line=0)
    which, matching = "later" if direction > 0 else "earlier", " that matches" if state.filters else ""
    return replace(state, notice=f"no {which} step{matching}")


def _other_prompt(state: State, stage: StageFolder, direction: int) -> State:
    prompt = state.prompt + direction
    if 0 <= prompt < len(groups_of(state, stage)):
        return replace(state, prompt=prompt, line=0)
    return replace(state, notice=f"the {'last' if direction > 0 else 'first'} prompt of the step")


def _go(state: State, stage: StageFolder, argument: str) -> State:
    if not argument.isdecimal():
        raise UserError(f"go to which step? '{argument}' is not a number")
    if int(argument) not in stage.steps():
        raise UserError(no_step(stage, int(argument)))
    return replace(state, step=int(argument), prompt=0, line=0)


def _with_condition(state: State, stage: StageFolder, argument: str) -> Filters:
    """One more condition; none at all takes them away."""
    added = [read_condition(argument, stage.reward_names(state.step))] if argument else []
    return replace(state.filters, conditions=(*state.filters.conditions, *added) if added else ())


def _filtered(state: State, stage: StageFolder, filters: Filters) -> State:
    """Stay on the step where something matches there, else go to the nearest earlier or later one."""
    if filters.select(stage.groups(state.step)):
        return replace(state, filters=filters, prompt=0, line=0)
    step = seek(stage, state.step, -1, filters) or seek(stage, state.step, 1, filters)
    if step is None:
        return replace(state, notice=f"nothing in the stage matches {filters}")
    notice = f"step {step} is the nearest that matches"
    return replace(state, filters=filters, step=step, prompt=0, line=0, notice=notice)
