"""summary.json and the table at the end of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.table import Table

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
SHOWN = ("pass@1", "format_rate", "language_consistency", "general", "helpfulness", "safety", "over_refusal")
HEADINGS = ("pass@1", "format", "language", "general", "helpful", "safe", "over-refusal")


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
        seconds = round(manifest["seconds"] + (metrics.get("seconds") or 0.0), 1)
        total += seconds
        if stage.evaluated:
            measured = {key: metrics.get(key) for key in KEYS}
            rows.append({"stage": stage.folder, "seconds": seconds, **measured})
    return {"config": name, "seed": config.seed, "seconds": round(total, 1), "stages": rows}


def print_table(summary: dict[str, Any], config: RecipeConfig) -> None:
    """The table of the stages, in per cent."""
    table = Table(title=f"{summary['config']}, seed {summary['seed']}, {summary['seconds']:.0f} s")
    table.add_column("stage", no_wrap=True)
    for heading in ("seconds", "n", *HEADINGS):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in summary["stages"]:
        cells = [percent(row[key], row.get(f"{key}_ci95")) for key in SHOWN]
        table.add_row(row["stage"], f"{row['seconds']:.0f}", str(row["n_problems"] or "-"), *cells)
    console = SafeConsole(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    console.print(caption(config), style="dim")


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
