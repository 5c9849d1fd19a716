"""`grpo compare`: is B worse than A, on the same problems?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grpo.data.rows import read_jsonl
from grpo.errors import UserError, nearest
from grpo.evaluation.statistics import compare_paired
from stages.commands.common import Parser

MUST_AGREE = ("data_hash", "samples_per_problem", "temperature", "top_p", "max_tokens", "format_required")
EXAMPLES = """\
  grpo compare runs/a/3-rejection-sampling/eval.json runs/a/4-helpfulness-rl/eval.json
  grpo compare old.json new.json --metric helpfulness && echo "not worse\""""
METRICS = ("pass@1", "general", "helpfulness", "safety", "over_refusal", "language_consistency")
LOWER_IS_BETTER = ("over_refusal",)
SIGNIFICANT = 0.05


def compare_command(arguments: list[str]) -> int:
    """Exit code 1 when B is significantly worse."""
    description = "Paired comparison of two evaluations; exit 1 when B is significantly worse."
    parser = Parser("grpo compare", description, EXAMPLES)
    parser.add_argument("a", metavar="A.json")
    parser.add_argument("b", metavar="B.json")
    parser.add_argument("--metric", default="pass@1", metavar="NAME", help=f"{', '.join(METRICS)} (default pass@1)")
    chosen = parser.read(arguments)
    if chosen.metric not in METRICS:
        raise UserError(f"--metric '{chosen.metric}': not a metric of every problem{nearest(chosen.metric, METRICS)}")
    a, b = _read(chosen.a), _read(chosen.b)
    # Whether both were asked alike: a served model's own template is unknown, but not what we put around the questions.
    served = any(evaluation.get("engine") == "openai" for evaluation in (a, b))
    refused = f"'{chosen.a}' and '{chosen.b}' are not comparable"
    for key in (*MUST_AGREE, "prompt_hash" if served else "template_hash"):
        if a.get(key) != b.get(key):
            differ = f"{key} is {a.get(key)} and {b.get(key)}"
            raise UserError(f"{refused}: {differ}; evaluate both with the same settings")
    first, second = _values(chosen.a, chosen.metric), _values(chosen.b, chosen.metric)
    if only := sorted(first.keys() ^ second.keys()):
        raise UserError(f"{refused}: {len(only)} problems only in one, e.g. {only[0]}")
    return _report(chosen.metric, list(first.values()), [second[key] for key in first])


def _report(metric: str, a: list[float], b: list[float]) -> int:
    result = compare_paired(a, b)
    significant = result.p_value < SIGNIFICANT
    worse = significant and (-result.difference if metric in LOWER_IS_BETTER else result.difference) < 0
    print(f"{metric} on {result.n} problems: A {100 * sum(a) / len(a):.1f}, B {100 * sum(b) / len(b):.1f}")
    interval = f"[{100 * result.low:+.1f}, {100 * result.high:+.1f}]"
    print(f"B - A: {100 * result.difference:+.1f} points, 95% interval {interval}")
    print(f"p = {result.p_value:.4f} (two-sided sign-flip test)")
    print(f"B is significantly {'worse' if worse else 'better'}" if significant else "no significant difference")
    return 1 if worse else 0


def _read(name: str) -> dict[str, Any]:
    file = Path(name)
    if not file.is_file():
        raise UserError(f"'{name}': no such file; give an eval.json")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"'{name}': not valid JSON: {error}") from error
    if not isinstance(value, dict) or "data_hash" not in value:
        raise UserError(f"'{name}': not an eval.json (no data_hash in it)")
    return value


def _values(name: str, metric: str) -> dict[str, float]:
    """Problem id -> value, for the problems that the metric applies to."""
    file = Path(name).with_name(Path(name).stem + ".problems.jsonl")
    if not file.is_file():
        raise UserError(f"'{name}': its per-problem results '{file.name}' are not beside it")
    rows = [row for row in read_jsonl(file) if row.get("judged", True)]
    values = {f"{row['part']}/{row['id']}": float(row[metric]) for row in rows if row.get(metric) is not None}
    if not values:
        raise UserError(f"'{name}': {metric} was not measured there")
    return values
