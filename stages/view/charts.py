"""Which metrics share a chart, in which order, and what they are; one that nobody named gets a chart of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from grpo.errors import visible
from grpo.system.numbers import finite_number
from stages.view import curves
from stages.view.curves import Scale, Tick, Values
from stages.view.text import number


@dataclass(frozen=True)
class Plan:
    """One row of the table of charts. `names` may hold "*"; what they match shares a chart when `together`."""

    section: str
    names: tuple[str, ...]
    note: str = ""
    together: bool = False
    log: bool = False
    stacked: bool = False
    exact: bool = False  # not smoothed
    core: bool = False  # drawn also when it never changes


HELD_OUT, REWARDS, POLICY, LENGTHS = "Held-out problems", "Rewards", "Policy", "Completions"
OPTIMISER, TIME, OTHER = "Optimisation", "Time", "Other metrics"
MISMATCH = ("logprob_mismatch", "logprob_mismatch_max")
PLANS = (
    Plan(HELD_OUT, ("eval/pass@1",), "with its 95% interval over problems", exact=True, core=True),
    Plan(HELD_OUT, ("eval/pass@*", "eval/maj@*"), "of several samples", together=True, exact=True, core=True),
    Plan(HELD_OUT, ("eval/*",), exact=True),
    Plan(REWARDS, ("reward",), "mean total", core=True),
    Plan(REWARDS, ("reward/*",), "mean, unweighted, where it applies", core=True),
    Plan(REWARDS, ("pass_rate/*",), "mean running pass rate", together=True, core=True),
    Plan(REWARDS, ("reward_std",), "mean deviation within a group"),
    Plan(REWARDS, ("frac_zero_variance",), "groups that teach nothing"),
    Plan(REWARDS, ("excluded_fraction",), "rollouts without a reward"),
    Plan(REWARDS, ("draws",), "draws of a rollout"),
    Plan(REWARDS, ("informative_fraction",), "drawn groups that teach"),
    Plan(REWARDS, ("leftovers",), "groups kept for the next rollout"),
    Plan(REWARDS, ("resting/*", "retired/*"), "prompts that rest, and those for good", together=True),
    Plan(POLICY, ("kl",), "to the reference, per token", core=True),
    Plan(POLICY, ("entropy",), "nats a token", core=True),
    Plan(POLICY, ("clip_fraction",), "tokens that the clip took", core=True),
    Plan(POLICY, MISMATCH, "engine against trainer", together=True, log=True, core=True),
    Plan(POLICY, ("ratio_max", "ratio", "ratio_min"), "new policy to old", together=True),
    Plan(POLICY, ("policy_drift",), "KL of the update, k3"),
    Plan(POLICY, ("staleness_max", "staleness"), "updates behind", together=True),
    Plan(POLICY, ("correction_max", "correction"), "importance weights", together=True),
    Plan(POLICY, ("correction_cut",), "weights out of bounds"),
    Plan(POLICY, ("off_policy_dropped",), "sequences dropped"),
    Plan(LENGTHS, ("completion_length",), "mean tokens", core=True),
    Plan(LENGTHS, ("truncated_fraction",), "cut at the limit"),
    Plan(LENGTHS, ("trained_tokens", "tokens", "executed_tokens"), "tokens of the step"),
    Plan(OPTIMISER, ("loss",), core=True),
    Plan(OPTIMISER, ("grad_norm",), "before clipping", core=True),
    Plan(OPTIMISER, ("lr",), "learning rate", exact=True, core=True),
    Plan(OPTIMISER, ("skipped_steps", "nonfinite_steps"), "steps not applied so far", together=True, exact=True),
    Plan(OPTIMISER, ("applied",), "1: the optimizer stepped"),
    Plan(TIME, ("seconds/evaluation",), "of held-out problems, beside the step"),
    Plan(TIME, ("seconds/*",), "seconds a step by phase, smoothed", together=True, stacked=True, core=True),
    Plan(TIME, ("seconds",), "of the whole step", core=True),
    Plan(TIME, ("tokens_per_second",), "sampled, over the whole step"),
    Plan(TIME, ("mfu",), "of the update"),
)
POINT, INTERVAL = "eval/pass@1", "_ci95"
FEW = 6  # charts that need no headings between them


@dataclass(frozen=True)
class Line:
    """One metric of a chart: paths in the units of `curves.SIZE`, and the value that the legend begins with. `band`: of
    its interval."""

    name: str
    last: str
    raw: str = ""
    mean: str = ""
    area: str = ""
    band: str = ""


@dataclass(frozen=True)
class Chart:
    """`points` is what the page reads values from: steps' range, and for each line its steps and values."""

    note: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    points: dict[str, Any] = field(repr=False)
    log: bool = False


Bands = dict[str, list[tuple[float, float]]]  # of metrics that have an interval at every step
Drawing = tuple[Scale, list[Line], list[dict[str, Any]]]  # values' scale, lines, what the page reads of each


@dataclass(frozen=True)
class Curves:
    """The charts of a stage by section, few of them under "", and the metrics that need none: (name, the value that it
    has throughout)."""

    sections: dict[str, list[Chart]]
    constant: list[tuple[str, str]]


def curves_of(rows: Sequence[dict[str, Any]]) -> Curves:
    """Charts of the rows of metrics.jsonl."""
    rows = sorted(rows, key=lambda row: row["step"])
    points = evaluated(rows)
    trained = [row for row in rows if row["step"]]  # row 0 is of the model that the run starts from
    names = dict.fromkeys(name for row in trained for name in row if name != "step" and not _of_points(name))
    named = dict.fromkeys(name for row in points for name in row if _of_points(name) and not name.endswith(INTERVAL))
    values = {name: [finite_number(row.get(name)) for row in trained] for name in names}
    values |= {name: [finite_number(row.get(name)) for row in points] for name in named}
    sections: dict[str, list[Chart]] = {}
    constant: list[tuple[str, str]] = []
    for plan, group in _planned([*names, *named]):
        there = points if _of_points(group[0]) else trained
        steps = [row["step"] for row in there]
        lines = {name: values[name] for name in group}
        drawn = {name: line for name, line in lines.items() if any(value is not None for value in line)}
        if not (plan.core or any(len(set(line)) > 1 for line in lines.values())):
            drawn = {}
        if drawn:
            sections.setdefault(plan.section, []).append(_chart(plan, steps, drawn, _bands(there, drawn)))
        constant += [(visible(name), number(line[0])) for name, line in lines.items() if name not in drawn]
    charts = [chart for section in sections.values() for chart in section]
    return Curves({"": charts} if 0 < len(charts) <= FEW else sections, constant)


def evaluated(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the steps whose policy was asked held-out problems."""
    return [row for row in rows if finite_number(row.get(POINT)) is not None]


def interval(row: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """Of this metric at a point, where there is one."""
    bounds = row.get(f"{name}{INTERVAL}")
    low, high = map(finite_number, bounds) if isinstance(bounds, list) and len(bounds) == 2 else (None, None)
    return None if low is None or high is None else (low, high)


def _bands(rows: Sequence[dict[str, Any]], names: Iterable[str]) -> Bands:
    bands = {name: [band for row in rows if (band := interval(row, name)) is not None] for name in names}
    return {name: band for name, band in bands.items() if len(band) == len(rows)}


def _of_points(name: str) -> bool:
    return name.startswith("eval/") or name == "seconds/evaluation"


def _planned(names: list[str]) -> list[tuple[Plan, list[str]]]:
    """The metrics of each chart, in the order of the plans; those of no plan last."""
    charts, left = [], list(names)
    for plan in PLANS:
        matched = [name for pattern in plan.names for name in left if fnmatchcase(name, pattern)]
        left = [name for name in left if name not in matched]
        groups = [matched] if plan.together else [[name] for name in matched]
        charts += [(plan, group) for group in groups if group]
    return charts + [(Plan(OTHER, (name,)), [name]) for name in left]


def _chart(plan: Plan, steps: list[int], values: dict[str, list[float | None]], bands: Bands) -> Chart:
    x = curves.step_scale(steps)
    stacked = plan.stacked
    y, lines, points = _stacked(steps, values, x) if stacked else _overlaid(plan, steps, values, x, bands)
    data = {"x": [x.low, x.high], "lines": points}
    return Chart(plan.note, lines, curves.ticks(x, 5, whole=True), curves.ticks(y, 4), data, y.log)


def _overlaid(plan: Plan, steps: list[int], values: dict[str, list[float | None]], x: Scale, bands: Bands) -> Drawing:
    bounds = [bound for band in bands.values() for pair in band for bound in pair]
    y = curves.value_scale([*bounds, *(v for line in values.values() for v in line if v is not None)], plan.log)
    lines, points = [], []
    for name, line in values.items():
        kept = curves.thin(line)
        mean = line if plan.exact or len(line) < curves.SMOOTH_FROM else curves.smooth(line)
        at, raw, means = [steps[i] for i in kept], [line[i] for i in kept], [mean[i] for i in kept]
        faint = curves.path(at, raw, x, y) if mean is not line else ""
        around = [bands[name][i] for i in kept] if name in bands else []
        last = number(_last(line)) + (f" [{number(around[-1][0])}, {number(around[-1][1])}]" if around else "")
        lows, highs = [low for low, _ in around], [high for _, high in around]
        band = curves.area(at, lows, highs, x, y) if len(around) > 1 else ""
        lines.append(Line(visible(name), last, faint, curves.path(at, means, x, y), band=band))
        read = {"steps": at, "values": _rounded(raw), "mean": _rounded(means) if mean is not line else None}
        points.append(read | ({"band": [_rounded(pair) for pair in around]} if around else {}))
    return y, lines, points


def _stacked(steps: list[int], values: dict[str, list[float | None]], x: Scale) -> Drawing:
    """Areas one over the other, of the smoothed values; what is not defined counts as 0."""
    stride = -(-len(steps) // curves.POINTS)
    at = steps[::stride]
    tops, points, base = {}, [], [0.0] * len(at)
    for name, line in values.items():
        means = [value or 0.0 for value in curves.smooth(line)[::stride]]
        tops[name] = (base, base := [low + value for low, value in zip(base, means, strict=True)])
        points.append({"steps": at, "values": _rounded(line[::stride]), "mean": None})
    y = curves.value_scale([0.0, *base])
    lines = [Line(visible(name), number(_last(values[name])), area=curves.area(at, *tops[name], x, y)) for name in tops]
    return y, lines, points


def _last(values: Values) -> float | None:
    return next((value for value in reversed(values) if value is not None), None)


def _rounded(values: Values) -> list[float | None]:
    """As the legend shows them."""
    return [None if value is None else float(number(value)) for value in values]
