"""`grpo compare`: is B worse than A, on the same problems?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grpo.errors import UserError, nearest
from grpo.evaluation.result import read_result
from grpo.evaluation.statistics import compare_paired
from stages.commands.common import Parser
from stages.recipe.changes import SIGNIFICANT, by_problem, disagreement

EXAMPLES = """\
  grpo compare runs/a/3-rejection-sampling/eval.json runs/a/4-helpfulness-rl/eval.json
  grpo compare old.json new.json --metric helpfulness && echo "not worse\""""
METRICS = ("pass@1", "general", "helpfulness", "safety", "over_refusal", "language_consistency", "format_rate")
LOWER_IS_BETTER = ("over_refusal",)


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
    (a, first), (b, second) = _read(chosen.a, chosen.metric), _read(chosen.b, chosen.metric)
    refused = f"'{chosen.a}' and '{chosen.b}' are not comparable"
    if differ := disagreement(a, b):
        raise UserError(f"{refused}: {differ}; evaluate both with the same settings")
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


def _read(name: str, metric: str) -> tuple[dict[str, Any], dict[str, float]]:
    """The evaluation, and {problem: value} of those that the metric applies to."""
    if not Path(name).is_file():
        raise UserError(f"'{name}': no such file; give an eval.json")
    evaluation, rows = read_result(Path(name))
    values = by_problem(rows, metric, Path(name))
    if not values:
        raise UserError(f"'{name}': {metric} was not measured there")
    return evaluation, values
