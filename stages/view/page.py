"""The page of a run: one file that loads nothing. Jinja escapes every value; scripts run only if their hash is ours."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from grpo.errors import visible
from grpo.system.numbers import finite_number
from stages.recipe.changes import change
from stages.recipe.lineage import read_json
from stages.recipe.summary import HEADINGS, SHOWN, more_rows, passes
from stages.view.charts import curves_of
from stages.view.run_folder import StageFolder, as_dict
from stages.view.samples import samples_of
from stages.view.text import number, signed


def page(run: str, stages: list[StageFolder], shown: list[StageFolder]) -> str:
    """The HTML of a run: the table of all its stages, curves and samples of those `shown`."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters.update(number=number, signed=signed)
    environment.globals["duration"] = duration
    source = files("stages.view")
    script, style, template = ((source / f"page.{kind}").read_text("utf-8") for kind in ("js", "css", "html"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    file = Path(run) / "summary.json"  # what `grpo run` wrote at its end
    summary = read_json(file) if file.is_file() else {}
    seconds = finite_number(summary.get("seconds"))
    facts = [summary.get("config"), f"seed {summary['seed']}" if "seed" in summary else None]
    facts += [] if seconds is None else [duration(seconds)]
    return environment.from_string(template).render(
        name=visible(Path(run).resolve().name),
        facts=[visible(str(fact)) for fact in facts if fact],
        rows=_rows(summary, stages),
        more=_more(summary, stages),
        caption=_caption(stages),
        stages=[_part(index, stage) for index, stage in enumerate(shown)],
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        script=Markup(script),
        style=Markup(style),
    )


def _part(index: int, stage: StageFolder) -> dict[str, Any]:
    """What the page shows of one stage."""
    rows = stage.metrics()
    return {
        "name": stage.name,
        "anchor": f"stage-{index}",
        "status": _status(stage, rows),
        "finished": stage.finished(),
        "change": visible(change(stage.folder) or ""),
        "curves": curves_of(rows),
        "samples": samples_of(stage),
    }


def _status(stage: StageFolder, rows: list[dict[str, Any]]) -> str:
    done = max((row["step"] for row in rows), default=0)
    planned = stage.planned_steps()
    of = f" of {planned:,}" if planned and planned != done else ""
    return f"{done:,}{of} step{'s' * (done != 1)}" if done else "no step yet"


def duration(seconds: float) -> str:
    """75.2 -> "1 min 15 s"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _rows(summary: dict[str, Any], stages: list[StageFolder]) -> list[dict[str, Any]]:
    """The stages of summary.json; of a run that is not at its end, the finished stages that were evaluated."""
    listed = summary.get("stages")
    measured = {stage.name: results for stage in stages if "pass@1" in (results := stage.results())}
    recorded = (
        [as_dict(row) for row in listed if row]
        if isinstance(listed, list) and listed
        else [{"stage": name} for name in measured]
    )
    recorded = [{**row, **measured.get(str(row.get("stage")), {})} for row in recorded]  # which tell when edited
    return [
        {
            "stage": visible(str(row.get("stage", ""))),
            "seconds": finite_number(row.get("seconds")),
            "problems": None if finite_number(row.get("n_problems")) is None else row["n_problems"],
            "cells": [_cell(row, key, label) for key, label in zip(SHOWN, HEADINGS, strict=True)],
        }
        for row in recorded
    ]


def _more(summary: dict[str, Any], stages: list[StageFolder]) -> list[dict[str, Any]]:
    """pass@k and the other sets, as the second table of `grpo run` has them, of the finished stages; the sets of
    summary.json, before that is there all."""
    listed = summary.get("stages")
    rows = listed if isinstance(listed, list) else []
    known = {visible(name) for row in rows for name in as_dict(as_dict(row).get("sets"))} if rows else None
    measured = []
    for stage in stages:
        sets = as_dict(stage.read("manifest.json").get("sets"))
        numbers = {visible(name): as_dict(as_dict(one).get("metrics")) for name, one in sets.items()}
        numbers = {name: one for name, one in numbers.items() if known is None or name in known}
        measured.append({**stage.results(), "stage": stage.name, "sets": numbers})
    of_table = more_rows(measured)
    at = passes([numbers for *_, numbers in of_table])
    labels = [*zip(at, at, strict=True), *zip(SHOWN[1:3], HEADINGS[1:3], strict=True)]
    return [
        {
            "set": name,
            "stage": stage,
            "problems": None if finite_number(numbers.get("n_problems")) is None else numbers["n_problems"],
            "cells": [_cell(dict(numbers), key, label) for key, label in labels],
        }
        for name, stage, numbers in of_table
    ]


def _cell(row: dict[str, Any], key: str, label: str) -> dict[str, Any]:
    """One result in per cent, its interval where there is one."""
    share, interval = finite_number(row.get(key)), row.get(f"{key}_ci95")
    low, high = map(finite_number, interval) if isinstance(interval, list) and len(interval) == 2 else (None, None)
    low, high = (None, None) if None in (share, low, high) else (low, high)
    value, low, high = (None if part is None else 100 * part for part in (share, low, high))
    return {"label": label, "value": value, "low": low, "high": high}


def _caption(stages: list[StageFolder]) -> str:
    """How the numbers were taken, from the first evaluation there is."""
    settings = next((done for stage in stages if (done := stage.read("eval.json"))), None)
    text = "In per cent; the band is the 95% interval over problems, where there is one."
    numbers = [finite_number((settings or {}).get(key)) for key in ("temperature", "top_p", "samples_per_problem")]
    if settings is None or None in numbers:
        return text
    counted = "only in the required format" if settings.get("format_required") else "in any format"
    return (
        f"{text} pass@1 at temperature {numbers[0]:g} (top-p {numbers[1]:g}, {numbers[2]:g} samples a problem); "
        f"an answer counts {counted}."
    )
