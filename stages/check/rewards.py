"""Checks of rewards by trying them: a gold solution must be worth more than a wrong answer, nothing, or rambling."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from statistics import fmean

from grpo.config.data import RewardConfig
from grpo.errors import UserError
from grpo.scoring.calls import is_async
from grpo.scoring.groups import column_names, score
from grpo.types import Group, Rollout
from rewards.loader import find_reward, load_reward
from stages.check.prompts import Rendered, spread
from stages.check.subject import Skipped, Warned, listed
from stages.check.synthetic import EMPTY, GOLD, KINDS, OTHER_HEAD, RAMBLING, WRONG, completions, written_head
from stages.recipe.ahead import RUN, Asked
from stages.recipe.preflight import check_reward

TRIED = 8  # rows
SECONDS = 20.0  # for one call of a reward
HAVE_OWN_SOLUTIONS = ("code", "countdown")  # no box shows what these reward
Values = Mapping[str, list[float | None]]  # kind -> one value a row


@dataclass(frozen=True)
class Tried:
    """What rewards gave. `rows`: row numbers, for messages."""

    rows: list[int]
    by_name: dict[str, Values]
    total: Values
    failed: frozenset[str]  # rewards that raised, hung or returned no number
    first_error: str
    untried: dict[str, str]  # reward -> why


def rewards_on_synthetic(rendered: Rendered) -> str:
    """Try every reward that costs nothing to try and judge what they say.

    Raises:
        UserError: a set of rewards that teaches nothing, or that cannot see what it judges.
        Warned: a reward that is the same for everything, or fails.
        Skipped: none can be tried.
    """
    tried = try_rewards(rendered)
    text = summary(rendered.asked, tried)
    for problem in errors(rendered, tried):
        raise UserError(f"{problem} ({text})")
    for problem in warnings(rendered.asked, tried):
        raise Warned(f"{problem} ({text})")
    return text


def try_rewards(rendered: Rendered) -> Tried:
    """Each tried reward's values for each kind of completion of a few rows."""
    specs = rendered.asked.rewards
    untried = {spec.label: why for spec in specs if (why := why_untried(spec))}
    rewards = [replace(load_reward(spec), name=spec.label) for spec in specs if spec.label not in untried]
    if not rewards:
        raise Skipped("; ".join(f"{name}: {why}" for name, why in untried.items()))
    places = spread(rendered.prompts, TRIED)
    made = [completions(rendered, place) for place in places]
    groups = [
        Group(rendered.prompts[place], tuple(Rollout(completion) for completion in kinds.values()))
        for place, kinds in zip(places, made, strict=True)
    ]
    scored, stats = score(groups, rewards, columns=column_names(rendered.prompts), timeout=SECONDS)
    rollouts = [dict(zip(kinds, group.rollouts, strict=True)) for kinds, group in zip(made, scored, strict=True)]

    def values(read: Callable[[Rollout], float | None]) -> Values:
        return {kind: [read(row[kind]) if kind in row else None for row in rollouts] for kind in (*KINDS, OTHER_HEAD)}

    by_name = {reward.name: values(partial(_value, reward.name)) for reward in rewards}
    failed = frozenset(name for _, name in stats.failed)
    rows = [rendered.numbers[place] for place in places]
    return Tried(rows, by_name, values(attrgetter("reward")), failed, stats.first_error or "", untried)


def why_untried(spec: RewardConfig) -> str | None:
    """Why a reward is not called here; None: it is."""
    if RUN in str(spec.kwargs):
        return "needs a model of the run"
    try:
        check_reward(spec, Path())
    except UserError:
        return "its own check says why"
    target = find_reward(spec)[1]
    if inspect.isclass(target):
        return "a class, which may load a model"
    return "asynchronous, it may call a service" if is_async(target) else None


def _value(name: str, rollout: Rollout) -> float | None:
    return rollout.rewards[name]


def errors(rendered: Rendered, tried: Tried) -> Iterator[str]:
    """What makes training, or the evaluation, useless."""
    asked = rendered.asked
    yield from _blind(rendered, tried)
    voters = {spec.label for spec in asked.rewards if spec.weight or asked.kind != "task"}
    for name in voters & set(tried.by_name):
        if name in tried.failed and all(value is None for kind in KINDS for value in tried.by_name[name][kind]):
            yield f"'{name}' fails on every completion: {tried.first_error}"
    yield from _accuracy_errors(asked, tried)
    required = tried.by_name.get("format") if asked.kind in ("evaluation", "filters") else None
    if required and 1.0 not in (*required[GOLD], *required[WRONG]):
        yield "'format' gives 1.0 to nothing in the required format, so no answer could count"
    if asked.kind == "task":
        yield from _total_errors(asked, tried)


def _accuracy_errors(asked: Asked, tried: Tried) -> Iterator[str]:
    name = asked.accuracy.label if asked.accuracy is not None else ""
    values = tried.by_name.get(name, {})
    pairs = list(zip(tried.rows, values.get(GOLD, []), values.get(WRONG, []), strict=True)) if values else []
    judged = [(row, gold, wrong) for row, gold, wrong in pairs if gold is not None]
    if judged and all(gold == wrong for _, gold, wrong in judged):
        yield f"'{name}' gives a wrong answer what it gives the gold: {_number(judged[0][1])}"
    elif any(wrong is not None and gold < wrong for _, gold, wrong in judged):
        yield f"'{name}' gives a wrong answer more than the gold"


def _total_errors(asked: Asked, tried: Tried) -> Iterator[str]:
    everything = {value for kind in KINDS for value in tried.total[kind] if value is not None}
    if asked.by_mean and min(everything, default=0) < 0:
        yield f"advantage.scale: mean needs rewards of 0 or more, and one is {_number(min(everything))} in sum"
    unknown = [spec.fn for spec in asked.rewards if spec.fn in HAVE_OWN_SOLUTIONS]
    silent = any(spec.weight for spec in asked.rewards if spec.label in tried.untried) or unknown
    if len(everything) == 1 and not silent:
        yield f"the sum of the rewards is {_number(everything.pop())} whatever the completion says: nothing to learn"
    pairs = zip(tried.total[GOLD], tried.total[WRONG], strict=True)
    both = [(gold, wrong) for gold, wrong in pairs if gold is not None and wrong is not None]
    if both and fmean(gold for gold, _ in both) < fmean(wrong for _, wrong in both):
        yield "in sum, a wrong answer is worth more than the gold"


def warnings(asked: Asked, tried: Tried) -> Iterator[str]:
    """What is probably not meant."""
    for name in sorted(tried.failed):
        yield f"'{name}' fails on some completions, which are then not trained on: {tried.first_error}"
    accuracy = tried.by_name.get(asked.accuracy.label, {}) if asked.accuracy is not None else {}
    missed = [row for row, value in zip(tried.rows, accuracy.get(GOLD, ()), strict=False) if value == 0.0]
    if missed:
        yield f"the gold in the required format is not graded as right: {listed(missed)}"
    for name, values in tried.by_name.items():
        seen = {value for kind in KINDS for value in values[kind]}
        if seen == {None}:
            yield f"'{name}' applies to none of the rows tried"
        elif len(seen) == 1:
            yield f"'{name}' is {_number(seen.pop())} for everything tried"
    best, rambling = mean(tried.total[GOLD]), mean(tried.total[RAMBLING])
    if asked.kind == "task" and best is not None and rambling is not None and rambling > best:
        yield "in sum, rambling up to max_tokens is worth more than the gold"
    if asked.kind == "filters":
        for name, values in tried.by_name.items():
            if values[GOLD] and 1.0 not in values[GOLD]:
                yield f"'{name}' is 1.0 for none of the gold solutions, and a filter keeps nothing else"


def _blind(rendered: Rendered, tried: Tried) -> Iterator[str]:
    """Rewards that look for an opening tag in the wrong place: where they look, the gold is worth more."""
    head, think = written_head(rendered.prompts[0], rendered.tags), rendered.tags.think
    ours = {spec.label for spec in rendered.asked.rewards if spec.fn == "format"}
    for name, values in tried.by_name.items():
        gold, other = mean(values[GOLD]), mean(values[OTHER_HEAD])
        if gold is None or other is None or other <= gold:
            continue
        as_sampled, moved = _number(gold), _number(other)
        # Not what likes longer texts: that gives the gold more than nothing.
        if head and gold in (mean(values[EMPTY]), mean(values[RAMBLING])):
            yield (
                f"the prompt already opens the answer with {head!r}, which '{name}' does not know: it gives "
                f"{as_sampled} to what is sampled after it and {moved} with it"
            )
        elif not head and name in ours:
            yield (
                f"'{name}' takes <{think}> for written by the prompt, which does not write it: it gives "
                f"{as_sampled} to a completion that opens it and {moved} to one that does not"
            )


def summary(asked: Asked, tried: Tried) -> str:
    """ "accuracy 1 0 0 0, format 1 1 0 0, sum 2 1 0 0 for gold, wrong, empty, rambling; means of 8 rows"."""
    present = [kind for kind in KINDS if any(value is not None for value in tried.total[kind]) or kind == EMPTY]
    columns = {**tried.by_name, **({"sum": tried.total} if asked.kind == "task" else {})}
    parts = [f"{name} {' '.join(_number(mean(values[kind])) for kind in present)}" for name, values in columns.items()]
    notes = [f"; '{name}' not tried: {why}" for name, why in tried.untried.items()]
    return f"{', '.join(parts)} for {', '.join(present)}; means of {len(tried.rows)} rows{''.join(notes)}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are there, exact: the order of rows must not decide which of two means is larger."""
    present = [value for value in values if value is not None]
    return fmean(present) if present else None
