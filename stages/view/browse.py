"""Going through the steps of a stage: a pure state, changed by commands, drawn by `screen`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from grpo.errors import UserError
from stages.view.filters import Filters, read_condition
from stages.view.run_folder import SampleGroup, StageFolder, no_step

HELP = (
    "n/p next/previous step · j/k next/previous prompt · space/b page down/up · g N go to step N · "
    "/ TEXT only with it · f NAME<NUMBER only with such rewards (/ or f alone: all again) · q quit"
)


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
    state = replace(state, notice="")
    change = CHANGES.get(command.key)
    if change is None:
        return replace(state, notice=f"no command '{command.key}': {HELP}")
    try:
        return change(state, command.argument.strip(), stage, page)
    except UserError as error:
        return replace(state, notice=str(error))


def seek(stage: StageFolder, step: int, direction: int, filters: Filters) -> int | None:
    """The nearest step before (-1) or after (1) with something that the filters leave; None when there is none."""
    steps = [there for there in stage.steps()[::direction] if (there - step) * direction > 0]
    return next((there for there in steps if not filters or filters.select(stage.groups(there))), None)


def _turn(direction: int) -> Change:
    def change(state: State, _: str, stage: StageFolder, __: int) -> State:
        step = seek(stage, state.step, direction, state.filters)
        if step is not None:
            return replace(state, step=step, prompt=0, line=0)
        which, matching = "later" if direction > 0 else "earlier", " that matches" if state.filters else ""
        return replace(state, notice=f"no {which} step{matching}")

    return change


def _prompt(direction: int) -> Change:
    def change(state: State, _: str, stage: StageFolder, __: int) -> State:
        prompt = state.prompt + direction
        if 0 <= prompt < len(groups_of(state, stage)):
            return replace(state, prompt=prompt, line=0)
        return replace(state, notice=f"the {'last' if direction > 0 else 'first'} prompt of the step")

    return change


def _scroll(direction: int) -> Change:
    def change(state: State, _: str, __: StageFolder, page: int) -> State:
        return replace(state, line=max(0, state.line + direction * page))

    return change


def _go(state: State, argument: str, stage: StageFolder, _: int) -> State:
    if not argument.isdecimal():
        raise UserError(f"go to which step? '{argument}' is not a number")
    if int(argument) not in stage.steps():
        raise UserError(no_step(stage, int(argument)))
    return replace(state, step=int(argument), prompt=0, line=0)


def _find(state: State, argument: str, stage: StageFolder, _: int) -> State:
    return _filtered(state, replace(state.filters, text=argument), stage)


def _condition(state: State, argument: str, stage: StageFolder, _: int) -> State:
    """One more condition; none at all takes them away."""
    known = stage.reward_names(state.step)
    added = (*state.filters.conditions, read_condition(argument, known)) if argument else ()
    return _filtered(state, replace(state.filters, conditions=added), stage)


def _filtered(state: State, filters: Filters, stage: StageFolder) -> State:
    """Stay on the step where something matches there, else go to the nearest earlier or later one."""
    if filters.select(stage.groups(state.step)):
        return replace(state, filters=filters, prompt=0, line=0)
    step = seek(stage, state.step, -1, filters) or seek(stage, state.step, 1, filters)
    if step is None:
        return replace(state, notice=f"nothing in the stage matches {filters}")
    return replace(
        state, filters=filters, step=step, prompt=0, line=0, notice=f"step {step} is the nearest that matches"
    )


def _help(state: State, _: str, __: StageFolder, ___: int) -> State:
    return replace(state, notice=HELP)


def _quit(state: State, _: str, __: StageFolder, ___: int) -> State:
    return replace(state, done=True)


Change = Callable[[State, str, StageFolder, int], State]
CHANGES: dict[str, Change] = {
    "n": _turn(1),
    "p": _turn(-1),
    "j": _prompt(1),
    "k": _prompt(-1),
    " ": _scroll(1),
    "b": _scroll(-1),
    "g": _go,
    "/": _find,
    "f": _condition,
    "?": _help,
    "q": _quit,
}
ASKS = {"g": "step: ", "/": "text: ", "f": "condition, such as accuracy<0.5: "}
