"""What a stage changed: its evaluation beside that of the stage before it, problem by problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo.data.rows import Row
from grpo.errors import UserError, shorten
from grpo.evaluation.result import problems_file, read_result
from grpo.evaluation.statistics import compare_paired
from grpo.system.numbers import finite_number
from stages.recipe.lineage import read_json
from stages.recipe.summary import HEADINGS, SHOWN
from stages.recipe.table import STAGES

MUST_AGREE = ("data_hash", "samples_per_problem", "temperature", "top_p", "max_tokens", "format_required")
SIGNIFICANT = 0.05


def disagreement(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """Of two evaluations: what they were not asked alike in; None: they can be compared."""
    # A served model's own template is unknown, but not what we put around the questions.
    served = any(evaluation.get("engine") == "openai" for evaluation in (a, b))
    for key in (*MUST_AGREE, "prompt_hash" if served else "template_hash"):
        if a.get(key) != b.get(key):
            return f"{key} is {shorten(str(a.get(key)))} and {shorten(str(b.get(key)))}"
    return None


def by_problem(rows: Sequence[Row], metric: str, file: Path) -> dict[str, float]:
    """{problem: value} of those that the metric applies to. `rows`: of the problems of the evaluation in `file`.

    Raises:
        UserError: they are damaged.
    """
    found = [
        (f"{row.get('part')}/{row.get('id')}", value)
        for row in rows
        if row.get("judged", True) and (value := _value(row, metric)) is not None
    ]
    values = {problem: number for problem, value in found if (number := finite_number(value)) is not None}
    if len(values) < len(found):
        raise UserError(f"'{problems_file(file)}': damaged: a problem stands twice, or {metric} is no number")
    return values


def _value(row: Row, metric: str) -> Any:
    if metric != "format_rate":
        return row.get(metric)
    count, of = finite_number(row.get("in_format")), finite_number(row.get("n"))
    return None if count is None or not of else count / of


def before(stage: Path) -> Path | None:
    """The folder of the stage that this one went on from, or the nearest one before it that was evaluated; None: the
    run has none, or the stage was given another model."""
    for _ in STAGES:
        file = stage / "manifest.json"
        manifest = read_json(file) if file.is_file() else {}
        parents = manifest.get("parents")
        key, made = next(iter(parents.items()), ("", None)) if isinstance(parents, dict) else ("", None)
        if key not in STAGES:
            return None
        stage = stage.parent / STAGES[key].folder
        parent = stage / "manifest.json"
        if not parent.is_file() or read_json(parent).get("hash") != made:
            return None
        if (stage / "eval.json").is_file():
            return stage
    return None


def change(stage: Path) -> str | None:
    """One sentence on what a finished stage changed, each number with the p-value of a paired test over problems; None:
    nothing before it was evaluated."""
    earlier = before(stage) if (stage / "eval.json").is_file() else None
    if earlier is None:
        return None
    try:
        return f"Against {earlier.name}: {_changes(earlier / 'eval.json', stage / 'eval.json')}."
    except UserError as error:
        return f"Not compared with {earlier.name}: {error}."


def _changes(a: Path, b: Path) -> str:
    (settings, first), (others, second) = read_result(a), read_result(b)
    if differ := disagreement(settings, others):
        raise UserError(f"{differ}; the evaluations were made with other settings")
    moved, stayed = [], []
    for metric, heading in zip(SHOWN, HEADINGS, strict=True):
        old, new = by_problem(first, metric, a), by_problem(second, metric, b)
        both = [problem for problem in old if problem in new]
        if not both:
            continue
        result = compare_paired([old[problem] for problem in both], [new[problem] for problem in both])
        p = f"p {'< 0.001' if result.p_value < 0.001 else f'= {result.p_value:.2g}'}"
        part = f", {len(both)} problems with a value in both" if len(both) < len(old.keys() | new.keys()) else ""
        if result.p_value < SIGNIFICANT:
            start, end = (100 * sum(of[problem] for problem in both) / len(both) for of in (old, new))
            moved.append(f"{heading} {'rose' if end > start else 'fell'} from {start:.1f} to {end:.1f} ({p}{part})")
        else:
            stayed.append(f"{heading} ({100 * result.difference:+.1f}, {p}{part})")
    said = [*([_listed(moved)] if moved else []), *([f"no clear change in {_listed(stayed)}"] if stayed else [])]
    return "; ".join(said) or "nothing was measured in both"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
