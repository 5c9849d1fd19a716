"""What the metrics of a run say when it goes wrong: pure functions over its rows, one line of advice for each cause.

They see the first rows of a run and the latest (`rows` of `grpo.monitoring.metrics.MetricsWriter`). A threshold is
where a run that does well does not come; a difference counts only when it is larger than the rows' own noise explains.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import variance
from typing import Any

from grpo.monitoring.advice import CUT, FEW, SHARP, Prospect, hopeless
from grpo.system.numbers import mean
from grpo.system.world import is_main

log = logging.getLogger("grpo")

Rows = Sequence[Mapping[str, Any]]

BEGIN = 16  # rows whose mean is where the run began: one row is a handful of prompts
NOW = 8  # rows whose mean is where it is: few enough to notice in time
CONSTANT = 10  # rows in which no group teaches anything, or few do, one after the other
PATIENT = 100  # rows before something that ought to change is missed: R1-like gains take tens of steps
CLEAR = 16  # rows without the cause before it may be said again: a value at its threshold goes to and fro
KL_LIMIT = 1.0  # nats a token; DeepSeekMath's and open runs stay below 0.5, where texts still resemble the reference's
ENTROPY_SHARE = 0.1  # of where it began. What is left below that is one answer to each prompt
TRUNCATED = 0.95  # share of completions; a cut completion nearly never holds the answer
LONGER = 2.0  # times where it began, and many of them cut: growth that still fits is what reasoning looks like
ALIKE = 0.9  # share of groups
FALL = 0.5  # share of what was gained
SIGMAS = 4.0  # standard errors: of a hundred windows the best one is 2.5 above the mean by chance


def rl_alarms(rows: Rows, right: Mapping[str, float] | None = None) -> dict[str, str]:
    """Cause -> what is wrong and what to do, of a GRPO run. `right`: the columns of rewards that say what is right,
    each with its tasks' share of the prompts."""
    falls, constant, truncated = _reward_falls(rows), _reward_constant(rows), _truncated(rows)
    taught = bool(rows) and rows[-1].get("teacher_kl") is not None  # also by groups whose rewards are equal
    advice = {
        "reward is constant": None if taught else constant,
        "reward does not rise": None if falls or constant else _reward_flat(rows),
        "reward collapses": falls,
        "entropy collapses": _entropy(rows),
        "KL runs away": _kl(rows),
        "length explodes": _length(rows),
        "everything is truncated": truncated,
        "few groups teach": None if constant or truncated or taught else _few_teach(rows, right or {}),
    }
    return {cause: text for cause, text in advice.items() if text}


def sft_alarms(rows: Rows) -> dict[str, str]:
    """The same of a supervised training."""
    losses = column(rows, "loss")
    if len(losses) < PATIENT or _mean(losses[-BEGIN:]) < _mean(losses[:BEGIN]):
        return {}
    return {
        "loss does not fall": f"the loss was {_mean(losses[:BEGIN]):.3g} at the beginning and is "
        f"{_mean(losses[-BEGIN:]):.3g} now: change optimizer.lr (up if it is flat, down if it jumps), and read what is "
        "trained in data/"
    }


class Alarms:
    """Says each cause once, until it has been gone for a while."""

    def __init__(self, judge: Callable[[Rows], Mapping[str, str]]) -> None:
        self._judge = judge
        self._last: dict[str, int] = {}  # cause -> the step it was last there

    def look(self, rows: Rows) -> None:
        """At the rows so far, after each new one."""
        step = rows[-1]["step"]
        for cause, text in self._judge(rows).items():
            if step - self._last.get(cause, -CLEAR) >= CLEAR and is_main():
                log.warning("step %d: %s: %s", step, cause, text)
            self._last[cause] = step


def column(rows: Rows, name: str) -> list[float]:
    return [float(value) for row in rows if (value := row.get(name)) is not None and math.isfinite(value)]


def _begin_and_now(rows: Rows, name: str) -> tuple[float, float] | None:
    """Means of the first and of the latest rows; None: there are too few."""
    values = column(rows, name)
    return (_mean(values[:BEGIN]), _mean(values[-NOW:])) if len(values) >= BEGIN + NOW else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def standard_error(values: Sequence[float], other: Sequence[float]) -> float:
    """Standard error of the difference of two means, from the rows' own spread."""
    return math.sqrt(sum(variance(part) / len(part) for part in (values, other)))


def _reward_flat(rows: Rows) -> str | None:
    rewards = column(rows, "reward")
    if len(rewards) < PATIENT:
        return None
    first, last = rewards[:BEGIN], rewards[-BEGIN:]
    if _mean(last) - _mean(first) > standard_error(first, last):
        return None
    if (mean(column(rows[-BEGIN:], "frac_zero_variance")) or 0.0) >= ALIKE:
        why = "nearly all groups are judged alike: choose harder or easier prompts, or see whether the reward is right"
    else:
        why = "raise optimizer.lr or group_size, and read completions/ for what is rewarded"
    return f"{_mean(first):.3g} at the beginning, {_mean(last):.3g} now: {why}"


def _reward_constant(rows: Rows) -> str | None:
    recent = column(rows[-CONSTANT:], "frac_zero_variance")
    if len(recent) < CONSTANT or min(recent) < 1.0:
        return None
    first, now = column(rows[:CONSTANT], "reward"), column(rows[-CONSTANT:], "reward")
    if first and now and _mean(now) > _mean(first):
        return None  # the task is learnt
    value = f" ({min(now):.3g} to {max(now):.3g} on average)" if now else ""
    return (
        f"for {CONSTANT} steps every prompt's completions were all judged alike{value}, so there is nothing to learn: "
        "see what the rewards give in completions/, or choose prompts that are solved now and then"
    )


def _few_teach(rows: Rows, right: Mapping[str, float]) -> str | None:
    recent = rows[-CONSTANT:]
    shares = [_informative(row) for row in recent]
    teaching = [share for share in shares if share is not None and share < FEW]
    if len(teaching) < CONSTANT:
        return None
    first, now = column(rows[:CONSTANT], "reward"), column(recent, "reward")
    if min(len(first), len(now)) > 1 and _mean(now) - _mean(first) > SIGMAS * standard_error(first, now):
        return None  # it has learnt: few are left to teach
    drawn = any(row.get("informative_fraction") is not None for row in recent)
    return hopeless(
        Prospect(
            teaching=_mean(teaching),
            # Dynamic sampling chose what is counted here.
            right=None if drawn else _right(recent, right),
            entropy=mean(column(recent, "entropy")),
            truncated=mean(column(recent, "truncated_fraction")) or 0.0,
            dynamic=drawn,
        )
    )


def _right(rows: Rows, columns: Mapping[str, float]) -> float | None:
    """The share of right completions, of those columns whose tasks were there and that can be shares."""
    means = {name: mean(column(rows, name)) for name in columns}
    shares = {name: value for name, value in means.items() if value is not None and 0 <= value <= 1}
    weight = sum(columns[name] for name in shares)
    return sum(columns[name] * value for name, value in shares.items()) / weight if weight else None


def _informative(row: Mapping[str, Any]) -> float | None:
    """The share of groups that teach: of those that were drawn, where dynamic sampling chose among them."""
    drawn, alike = row.get("informative_fraction"), row.get("frac_zero_variance")
    return drawn if drawn is not None or alike is None else 1.0 - alike


def _reward_falls(rows: Rows) -> str | None:
    rewards = column(rows, "reward")
    if len(rewards) < 2 * BEGIN:
        return None
    windows = [rewards[start : start + BEGIN] for start in range(len(rewards) - BEGIN + 1)]
    best, now = max(windows, key=_mean), rewards[-NOW:]
    low = min(_mean(window) for window in windows[: windows.index(best) + 1])
    drop = _mean(best) - _mean(now)
    gained = _mean(best) - low
    # A run that never rose has nothing to lose a share of: then the fall is measured by the noise alone.
    if drop <= FALL * gained or drop <= SIGMAS * standard_error(best, now):
        return None
    return (
        f"it was {_mean(best):.3g} and is {_mean(now):.3g}: go back to an earlier checkpoint with a lower "
        "optimizer.lr, or with a KL (loss.beta)"
    )


def _entropy(rows: Rows) -> str | None:
    entropy, rewards = _begin_and_now(rows, "entropy"), _begin_and_now(rows, "reward")
    if entropy is None or entropy[0] < SHARP or entropy[1] >= ENTROPY_SHARE * entropy[0]:
        return None
    alike = (mean(column(rows[-NOW:], "frac_zero_variance")) or 0.0) >= ALIKE
    if alike and rewards is not None and rewards[1] > rewards[0]:
        return None  # the task is learnt
    return (
        f"{entropy[0]:.3g} nats a token at the beginning, {entropy[1]:.3g} now: siblings become alike; lower "
        "optimizer.lr, raise loss.clip_high or set loss.entropy_bonus"
    )


def _kl(rows: Rows) -> str | None:
    kl = column(rows, "kl")[-NOW:]
    if len(kl) < NOW or _mean(kl) <= KL_LIMIT:
        return None
    return (
        f"{_mean(kl):.3g} nats a token from the reference: lower optimizer.lr, raise loss.beta, "
        "or renew the reference (reference_every)"
    )


def _length(rows: Rows) -> str | None:
    lengths, cut = _begin_and_now(rows, "completion_length"), column(rows[-NOW:], "truncated_fraction")
    if lengths is None or not cut or lengths[1] <= LONGER * lengths[0] or _mean(cut) <= CUT:
        return None
    return (
        f"{lengths[0]:.0f} tokens at the beginning, {lengths[1]:.0f} now, and {_mean(cut):.0%} are cut at the limit: "
        "raise sampling.max_tokens, or punish it (truncated: penalise)"
    )


def _truncated(rows: Rows) -> str | None:
    cut = column(rows, "truncated_fraction")[-NOW:]
    if len(cut) < NOW or _mean(cut) < TRUNCATED:
        return None
    return (
        f"{_mean(cut):.0%} of the completions are cut at the limit: raise sampling.max_tokens, or see whether "
        "the model knows its end token and template"
    )
