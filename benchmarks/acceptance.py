"""Do finished tiny runs show that each stage did its job? Prints each target with its figure; exit 1 when one fails.

python benchmarks/acceptance.py [--seconds 600] runs/seed-0 [runs/seed-1 ...]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from grpo.evaluation.statistics import compare_paired


def stage_rows(run: Path) -> dict[str, dict[str, Any]]:
    summary = json.loads((run / "summary.json").read_text())
    return {row["stage"]: row for row in summary["stages"]} | {"run": summary}


def paired(run: Path, metric: str) -> tuple[float, float]:
    """(difference stage 4 - stage 3, p-value) over the prompts both answered."""
    values = []
    for stage in ("3-rejection-sampling", "4-helpfulness-rl"):
        lines = (run / stage / "eval.problems.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        values.append({row["id"]: row[metric] for row in rows if row.get(metric) is not None})
    before, after = values
    shared = sorted(before.keys() & after.keys())
    result = compare_paired([before[key] for key in shared], [after[key] for key in shared])
    return result.difference, result.p_value


def targets(run: Path, most_seconds: int) -> list[tuple[str, bool, str]]:
    """(what must hold, whether it does, the figure)."""
    rows = stage_rows(run)
    base, cold, rl, sft, final = (
        rows[name] for name in ("0-base", "1-cold-start", "2-reasoning-rl", "3-rejection-sampling", "4-helpfulness-rl")
    )
    accuracy = {name: rows[name]["pass@1"] for name in rows if name != "run"}
    helpful, helpful_p = paired(run, "helpfulness")
    safe, safe_p = paired(run, "safety")
    seconds = rows["run"]["seconds"]
    gain = rl["pass@1"] - cold["pass@1"]
    return [
        ("200+ held-out problems", base["n_problems"] >= 200, f"{base['n_problems']}"),
        (f"at most {most_seconds} s", seconds <= most_seconds, f"{seconds:.0f} s"),
        ("base pass@1 < 5%", base["pass@1"] < 0.05, f"{base['pass@1']:.1%}"),
        ("stage 1 format >= 80%", cold["format_rate"] >= 0.8, f"{cold['format_rate']:.1%}"),
        ("stage 1 pass@1 in 20-70%", 0.2 <= cold["pass@1"] <= 0.7, f"{cold['pass@1']:.1%}"),
        ("stage 1 language < 90%", cold["language_consistency"] < 0.9, f"{cold['language_consistency']:.1%}"),
        ("stage 2 gains 20 points", gain >= 0.2, f"{100 * gain:+.1f}"),
        ("stage 2 pass@1 >= 80%", rl["pass@1"] >= 0.8, f"{rl['pass@1']:.1%}"),
        ("stage 2 language >= 97%", rl["language_consistency"] >= 0.97, f"{rl['language_consistency']:.1%}"),
        (
            "stage 3 pass@1 within 5 points of stage 2",
            sft["pass@1"] >= rl["pass@1"] - 0.05,
            f"{100 * (sft['pass@1'] - rl['pass@1']):+.1f}",
        ),
        ("general near zero before stage 3", rl["general"] <= 0.05, f"{rl['general']:.1%}"),
        ("general learnt in stage 3", sft["general"] >= 0.4, f"{sft['general']:.1%}"),
        ("stage 4 helpfulness up, p < 0.05", helpful > 0 and helpful_p < 0.05, f"{helpful:+.3f}, p = {helpful_p:.4f}"),
        ("stage 4 safety up, p < 0.05", safe > 0 and safe_p < 0.05, f"{safe:+.3f}, p = {safe_p:.4f}"),
        ("stage 4 over-refusal <= 5%", final["over_refusal"] <= 0.05, f"{final['over_refusal']:.1%}"),
        (
            "stage 4 pass@1 within 3 points of stage 3",
            accuracy["4-helpfulness-rl"] >= accuracy["3-rejection-sampling"] - 0.03,
            f"{100 * (accuracy['4-helpfulness-rl'] - accuracy['3-rejection-sampling']):+.1f}",
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--seconds", type=int, default=600, help="that a run may take (default 600, for 2 quiet cores)")
    chosen = parser.parse_args()
    failed = 0
    for run in chosen.runs:
        print(run)
        for what, holds, figure in targets(run, chosen.seconds):
            print(f"  {'ok  ' if holds else 'FAIL'}  {what:<45} {figure}")
            failed += not holds
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
