"""Judging the completions of an evaluation: every process its share, and what breaks a judge counts as wrong."""

import inspect
import itertools
import logging
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import replace

from grpo.data.prompts import ANSWER_COLUMNS, own_answer
from grpo.data.rows import Row
from grpo.errors import UserError
from grpo.scoring.calls import REWARD_TIMEOUT
from grpo.scoring.groups import column_names, score
from grpo.scoring.table import Reward
from grpo.system.world import World
from grpo.types import Group, Rollout

log = logging.getLogger("grpo")


def check_golds(rows: Sequence[Row], accuracy: Reward, source: str) -> None:
    """Before any sampling: is there something to judge by?

    Raises:
        UserError: the judge takes golds, and no row has one.
    """
    column = accuracy.columns.get("answer")
    if not _takes_golds(accuracy) or any((row.get(column) if column else own_answer(row)) is not None for row in rows):
        return
    names = (column,) if column else ANSWER_COLUMNS
    has = ", ".join(rows[0]) if rows else "nothing"
    raise UserError(f"data '{source}': no column {' | '.join(names)} to judge by (it has: {has}); data.columns renames")


def _takes_golds(accuracy: Reward) -> bool:
    """Unless its parameters are known and `answer` is none of them: the code reward takes `tests`."""
    try:
        parameters = inspect.signature(accuracy.fn).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.name == "answer" or p.kind is p.VAR_KEYWORD for p in parameters)


def judge_groups(groups: list[Group], rewards: list[Reward]) -> list[Group]:
    """The groups with their rewards; every process judges its share. What a reward fails on is said."""
    failures: list[tuple[dict[str, int], str | None]] = []  # here
    columns = column_names(group.prompt for group in groups)

    def judge(own: list[Group]) -> list[Group]:
        if not own:  # fewer groups than processes
            return []
        judged, stats = score(own, rewards, columns=columns, timeout=REWARD_TIMEOUT)
        failures.append((stats.errors, stats.first_error))
        return _failures_as_wrong(judged, stats.failed)

    world = World.current()
    judged = world.spread(groups, judge)
    everywhere = list(itertools.chain(*world.gather(failures)))
    counts = sum((Counter(errors) for errors, _ in everywhere), Counter[str]())
    if counts:
        shown = ", ".join(f"{name} failed on {count}" for name, count in counts.items())
        example = next(text for _, text in everywhere if text)
        rows = sum(len(group.rollouts) for group in groups)
        end = "; where a gold could be read they count as wrong" if counts["accuracy"] else ""
        log.warning("evaluation: %s of %d completions; first: %s%s", shown, rows, example, end)
    return judged


def _failures_as_wrong(groups: list[Group], failed: Set[tuple[int, str]]) -> list[Group]:
    """The groups with an accuracy of 0 where its function raised, hung or returned no number.

    A model must not be spared the problems whose answers break the judge. Without a gold there was nothing to judge by.
    """
    rows = itertools.count()

    def judged(group: Group, rollout: Rollout) -> Rollout:
        if (next(rows), "accuracy") in failed and group.prompt.answer is not None:
            return replace(rollout, rewards={**rollout.rewards, "accuracy": 0.0})
        return rollout

    return [replace(group, rollouts=tuple(judged(group, rollout) for rollout in group.rollouts)) for group in groups]
