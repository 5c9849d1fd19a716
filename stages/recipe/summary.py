"""summary.json and the table at the end of a run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from grpo.system.console import SafeConsole
from grpo.system.files import write_json
from stages.recipe.config import RecipeConfig
from stages.recipe.lineage import read_json
from stages.recipe.planning import is_finished
from stages.recipe.table import active_stages

KEYS = (
    "n_problems", "pass@1", "pass@1_ci95", "format_rate", "language_consistency", "general", "general_ci95",
    "helpfulness", "helpfulness_ci95", "safety", "safety_ci95", "over_refusal",
)  # fmt: skip
SET_KEYS = KEYS[:5]
SHOWN = ("pass@1", "format_rate", "language_consistency", "general", "helpfulness", "safety", "over_refusal")
HEADINGS = ("pass@1", "format", "language", "general", "helpful", "safe", "over-refusal")
FOLDED = {"over-refusal": "over-\nrefusal"}  # so that four shares fit 80 columns
NAME = 24  # of a row's name in a line
MUCH = 10_000  # columns of a console: more than a table has
Column = tuple[str, Sequence[str]]  # heading, cells


def summarise(config: RecipeConfig, run: Path, name: str) -> dict[str, Any]:
    """The finished stages' manifests as summary.json; every key always there, null when not measured."""
    written = None
    while (summary := _collected(config, run, name)) != written:  # another stage may have been finished meanwhile
        write_json(run / "summary.json", summary)
        written = summary
    return summary


def _collected(config: RecipeConfig, run: Path, name: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    total = 0.0
    for stage in active_stages(config):
        if not is_finished(run / stage.folder):
            continue
        manifest = read_json(run / stage.folder / "manifest.json", "metrics", "seconds")
        metrics = manifest["metrics"]
        recorded, wanted = manifest.get("sets", {}), config.evaluation.sets_after(stage.key)
        sets = {name: recorded[name]["metrics"] for name in wanted if name in recorded}
        spent = (part.get("seconds") or 0.0 for part in (metrics, *sets.values()))
        seconds = round(manifest["seconds"] + sum(spent), 1)
        total += seconds
        if stage.evaluated:
            measured = {key: metrics.get(key) for key in KEYS} | at_k(metrics)
            if config.evaluation.sets:
                measured["sets"] = {name: of_set(one) for name, one in sets.items()}
            rows.append({"stage": stage.folder, "seconds": seconds, **measured})
    return {"config": name, "seed": config.seed, "seconds": round(total, 1), "stages": rows}


def at_k(metrics: dict[str, Any]) -> dict[str, Any]:
    """pass@k and maj@k with their intervals, of those that were asked for."""
    return {key: value for key, value in metrics.items() if re.match(r"(pass|maj)@\d", key) and key not in KEYS}


def of_set(metrics: dict[str, Any]) -> dict[str, Any]:
    """What the summary has of one more set."""
    return {key: metrics.get(key) for key in SET_KEYS} | at_k(metrics)


def more_rows(stages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(set, stage, numbers) of the second table, by set: how it was before and after is read down. The main problems
    are in it with their pass@k, which tells sharpening from learning."""
    rows = [("math", row["stage"], row) for row in stages if passes([row]) != ["pass@1"]]
    for name in dict.fromkeys(name for row in stages for name in row.get("sets", ())):
        rows += [(name, row["stage"], row["sets"][name]) for row in stages if name in row.get("sets", ())]
    return rows


def passes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """pass@1, pass@8, ...: those that any of the rows has, by k."""
    names = {key for row in rows for key in row if re.fullmatch(r"pass@\d+", key)}
    return sorted(names, key=lambda name: int(name.removeprefix("pass@")))


def print_table(summary: dict[str, Any], config: RecipeConfig) -> None:
    """The table of the stages, in per cent."""
    stages = summary["stages"]
    columns = [
        ("seconds", [f"{row['seconds']:.0f}" for row in stages]),
        ("n", [str(row["n_problems"] or "-") for row in stages]),
        *_shares(stages, zip(SHOWN, HEADINGS, strict=True)),
    ]
    console = SafeConsole()
    title = f"{summary['config']}, seed {summary['seed']}, {summary['seconds']:.0f} s"
    print_columns(console, title, [("stage", [row["stage"] for row in stages])], columns)
    console.print(caption(config), style="dim")
    if rows := more_rows(stages):
        names, at, measured = zip(*rows, strict=True)
        keys = [*((key, key) for key in passes(measured)), *zip(SHOWN[1:3], HEADINGS[1:3], strict=True)]
        columns = [("n", [str(one.get("n_problems") or "-") for one in measured]), *_shares(measured, keys)]
        print_columns(console, "pass@k, and the other sets", [("set", names), ("stage", at)], columns)


def _shares(rows: Sequence[Mapping[str, Any]], keys: Iterable[tuple[str, str]]) -> list[Column]:
    return [(heading, [percent(row.get(key), row.get(f"{key}_ci95")) for row in rows]) for key, heading in keys]


def print_columns(console: Console, title: str | None, names: Sequence[Column], columns: Sequence[Column]) -> None:
    """A table; where the console is too narrow, its further columns stand in a table below, after the same names. Of
    several columns of names the first one makes groups."""
    options = console.options.update_width(MUCH)
    parts: list[list[Column]] = [[]]
    for column in columns:
        wider = [*parts[-1], column]
        if parts[-1] and console.measure(_table(names, wider), options=options).maximum > console.width:
            parts.append([column])
        else:
            parts[-1] = wider
    for part in parts:
        table = _table(names, part)
        table.title = title if part is parts[0] else None
        console.print(table)


def _table(names: Sequence[Column], columns: Sequence[Column]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading, _ in names:
        whole = heading == "stage"
        table.add_column(heading, no_wrap=whole, overflow="fold", max_width=None if whole else NAME)
    for heading, _ in columns:
        table.add_column(FOLDED.get(heading, heading), justify="right", no_wrap=True)
    groups = names[0][1] if len(names) > 1 else ()
    for place, cells in enumerate(zip(*(of for _, of in (*names, *columns)), strict=True)):
        table.add_row(*map(Text, cells), end_section=groups[place : place + 1] != groups[place + 1 : place + 2])
    return table


def caption(config: RecipeConfig) -> str:
    """How the numbers were taken."""
    math = config.evaluation.math
    if math is None:
        rest = "; the other cells in per cent, with 95% intervals over prompts" if config.evaluation.general else ""
        return f"No pass@1: the config has no evaluation.math, the problems that a stage's model is tried on{rest}."
    where = "an answer counts only in the required format" if math.format else "no format is required of an answer"
    draws = "one sample" if math.samples == 1 else f"{math.samples} samples"
    return (
        f"In per cent, with 95% intervals over problems. pass@1 at the evaluation temperature {math.temperature:g} "
        f"(top-p {math.top_p:g}, {draws} a problem); {where}."
    )


def percent(value: float | None, interval: list[float] | None = None) -> str:
    if value is None:
        return "-"
    text = f"{100 * value:.1f}"
    return f"{text} [{100 * interval[0]:.0f}, {100 * interval[1]:.0f}]" if interval else text
