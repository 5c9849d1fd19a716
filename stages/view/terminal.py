"""One step in the terminal: prompts, and their completions side by side. Nothing of it is read as rich's markup."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stages.view.charts import POINT, evaluated, interval
from stages.view.filters import Filters
from stages.view.run_folder import Sample, SampleGroup, StageFolder
from stages.view.text import number, shorten, signed

COLUMN = 40  # characters that a completion wants at least
LONGEST = 20_000  # characters shown of a completion or a prompt
NEAR = 3  # points of the curve before a step
HEADLINE = ("reward", "reward_std", "kl", "entropy", "grad_norm", "completion_length")


def heading(stage: StageFolder, step: int, filters: Filters, shown: str) -> RenderableType:
    """Where we are, the step's own metrics, and what is shown of it."""
    steps = stage.steps()
    total = stage.planned_steps() or max(steps, default=step)
    place = Text.assemble((stage.name, "bold"), f"  step {step} of {total}")
    place.append("" if stage.finished() else "  (unfinished)", "yellow")
    rows = stage.metrics()
    row = next((row for row in rows if row["step"] == step), {})
    metrics = Text("  ".join(f"{name} {_metric(row[name])}" for name in HEADLINE if name in row), "dim")
    filtered = Text(f"only {filters}", "cyan") if filters else None
    return Group(*(part for part in (place, metrics, _curve(rows, step), filtered, Text(shown)) if part))


def _curve(rows: list[dict[str, Any]], step: int) -> Text:
    """pass@1 on held-out problems: at the beginning, at points before this step and at the end, each with its interval;
    the points that are not shown are dots."""
    points = evaluated(sorted(rows, key=lambda row: row["step"]))
    near = [place for place, row in enumerate(points) if row["step"] <= step][-NEAR:]
    said, before = [], -1
    for place in sorted({0, *near, len(points) - 1} if points else ()):
        bounds = interval(points[place], POINT)
        between = f" [{100 * bounds[0]:.0f}, {100 * bounds[1]:.0f}]" if bounds else ""
        gap = "… " * (place > before + 1)
        said.append(f"{gap}step {points[place]['step']}: {100 * points[place][POINT]:.1f}{between}")
        before = place
    return Text(f"held-out pass@1 %  {'  '.join(said)}" if said else "", "bold")


def _metric(value: Any) -> str:
    return number(value) if isinstance(value, int | float | None) else "?"


def prompt_view(group: SampleGroup, index: int, count: int, text: str, width: int) -> RenderableType:
    """A prompt, the `index`-th of `count`, over its completions; occurrences of `text` are marked."""
    title = f"prompt {index + 1} of {count}"
    named = " · ".join(part for part in (title, group.task, group.id) if part)
    if len(group.samples) < group.size:
        named += f" · {len(group.samples)} of {group.size} completions match"
    prompt = Panel(_messages(group, text), title=Text(named), title_align="left", box=box.HEAVY, width=width)
    return Group(prompt, _side_by_side(group.samples, text, width))


def _messages(group: SampleGroup, text: str) -> Text:
    shown = Text("\n").join(
        Text.assemble((f"{role}: ", "bold blue") if role else "", shorten(content, LONGEST))
        for role, content in group.prompt
    )
    return _marked(shown, text)


def _side_by_side(samples: tuple[Sample, ...], text: str, width: int) -> Table:
    """As many columns as the width allows, each row of them as high as its longest."""
    columns = max(1, min(len(samples), width // COLUMN))
    table = Table.grid(expand=True)
    table.width = width
    for _ in range(columns):
        table.add_column(ratio=1)
    for start in range(0, len(samples), columns):
        table.add_row(*(_sample(sample, text) for sample in samples[start : start + columns]))
    return table


def _sample(sample: Sample, text: str) -> Panel:
    title = f"#{sample.place}  reward {number(sample.reward)}  advantage {signed(sample.advantage)}"
    completion = _marked(Text(shorten(sample.completion, LONGEST)), text)
    return Panel(
        Group(_rewards(sample), completion),
        title=Text(title),
        title_align="left",
        subtitle=Text("cut at the limit" if sample.finish_reason == "length" else sample.finish_reason),
        subtitle_align="right",
        border_style=_colour(sample),
    )


def _rewards(sample: Sample) -> Text:
    return Text("  ").join(Text(f"{name} {number(value)}", "bold") for name, value in sample.rewards.items())


def _colour(sample: Sample) -> str:
    """Green is reinforced, red is discouraged, yellow was excluded."""
    if sample.reward is None:
        return "yellow"
    advantage = sample.advantage or 0.0
    return "green" if advantage > 0 else "red" if advantage < 0 else "dim"


def _marked(shown: Text, text: str) -> Text:
    if text:
        shown.highlight_words([text], "reverse", case_sensitive=False)
    return shown


def step_view(
    stage: StageFolder, step: int, filters: Filters, limit: int | None, width: int
) -> Iterator[RenderableType]:
    """The whole step, at most `limit` prompts of it."""
    groups = filters.select(stage.groups(step))
    shown = groups[:limit]
    yield heading(stage, step, filters, summary(groups, shown))
    for index, group in enumerate(shown):
        yield prompt_view(group, index, len(groups), filters.text, width)


def summary(groups: list[SampleGroup], shown: list[SampleGroup]) -> str:
    """What is there and what of it is shown."""
    if not groups:
        return "no completion of this step matches"
    count = sum(len(group.samples) for group in groups)
    text = f"{len(groups)} prompt{'s' * (len(groups) > 1)}, {count} completion{'s' * (count > 1)}"
    more = f"; the first {len(shown)} shown: --limit {len(groups)} shows all"
    return text + more * (len(shown) < len(groups))
