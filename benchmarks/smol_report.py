"""What `make smol` showed: its targets, summary.json, plots and sample completions. Exit 1 when a target is missed.

    python benchmarks/smol_report.py RUN [--beside OUT] [--to benchmarks/smollm2]

RUN is a finished run folder of `grpo run configs/smollm2.yaml`, OUT what `smol_beside.py` wrote: our seeds and TRL.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import mean, median
from typing import Any

from turns import HERE

from grpo.data.rows import read_jsonl
from grpo.evaluation.statistics import Comparison, compare_paired

COLD, RL, SFT, FINAL = "1-cold-start", "2-reasoning-rl", "3-rejection-sampling", "4-helpfulness-rl"
COLUMNS = ("pass@1", "pass@8", "format_rate", "language_consistency", "general", "helpfulness", "safety")
SMOOTHED = 5  # steps
SHOWN = 4  # problems


def compared(run: Path, before: str, after: str, metric: str) -> Comparison:
    """Stage `after` minus stage `before`, over the problems that both answered."""
    values = [
        {row["id"]: float(row[metric]) for row in read_jsonl(run / stage / "eval.problems.jsonl") if metric in row}
        for stage in (before, after)
    ]
    shared = sorted(values[0].keys() & values[1].keys())
    return compare_paired([values[0][key] for key in shared], [values[1][key] for key in shared])


def targets(run: Path, stages: dict[str, dict[str, Any]]) -> list[tuple[str, bool, str]]:
    """(what must hold, whether it does, the figure)."""
    cold, rl, sft, final = (stages[name] for name in (COLD, RL, SFT, FINAL))
    gain, wide = compared(run, COLD, RL, "pass@1"), rl["pass@8"] - cold["pass@8"]
    general = compared(run, RL, SFT, "general")
    helpful, safe = (compared(run, SFT, FINAL, metric) for metric in ("helpfulness", "safety"))
    kept, last = sft["pass@1"] - rl["pass@1"], final["pass@1"] - sft["pass@1"]
    trained = [stages[name] for name in (COLD, RL, SFT, FINAL)]
    return [
        ("stage 1 pass@1 in 10-60%", 0.1 <= cold["pass@1"] <= 0.6, f"{cold['pass@1']:.1%}"),
        ("stage 2 pass@1 15 points up", gain.difference >= 0.15 and gain.low > 0, shown(gain)),
        ("stage 2 pass@8 does not fall", wide >= 0, f"{100 * wide:+.1f}"),
        ("format >= 95% after every stage", all(one["format_rate"] >= 0.95 for one in trained),
         " ".join(f"{one['format_rate']:.1%}" for one in trained)),
        ("language >= 95% after every stage", all(one["language_consistency"] >= 0.95 for one in trained),
         " ".join(f"{one['language_consistency']:.1%}" for one in trained)),
        ("stage 3 pass@1 within 5 points of stage 2", abs(kept) <= 0.05 or kept > 0, f"{100 * kept:+.1f}"),
        ("stage 3 general up, p < 0.05", general.difference > 0 and general.p_value < 0.05, shown(general)),
        ("stage 4 helpfulness or safety up, p < 0.05",
         any(one.difference > 0 and one.p_value < 0.05 for one in (helpful, safe)),
         f"helpfulness {shown(helpful)}; safety {shown(safe)}"),
        ("stage 4 pass@1 within 5 points of stage 3", last >= -0.05, f"{100 * last:+.1f}"),
    ]  # fmt: skip


def shown(found: Comparison) -> str:
    bounds = f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    return f"{100 * found.difference:+.1f} {bounds}, p = {found.p_value:.4f}, n = {found.n}"


def table(stages: dict[str, dict[str, Any]]) -> str:
    """The stages as Markdown, in per cent, with intervals over problems."""
    lines = ["| stage | seconds | pass@1 | pass@8 | greedy | format | language | general | helpful | safe |"]
    lines.append("|---|" + "---|" * 9)
    for name, row in stages.items():
        cells = [interval(row, column) for column in COLUMNS]
        cells.insert(2, interval(row["sets"].get("greedy", {}), "pass@1"))
        lines.append(f"| {name} | {row['seconds']:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def interval(row: dict[str, Any], column: str) -> str:
    if row.get(column) is None:
        return ""
    bounds = row.get(f"{column}_ci95")
    wide = f" [{100 * bounds[0]:.0f}, {100 * bounds[1]:.0f}]" if bounds else ""
    return f"{100 * row[column]:.1f}{wide}"


def read_stages(run: Path) -> dict[str, dict[str, Any]]:
    """The rows of summary.json, each with all of its evaluation and of its other sets."""
    rows = {}
    for row in json.loads((run / "summary.json").read_text(encoding="utf-8"))["stages"]:
        manifest = json.loads((run / row["stage"] / "manifest.json").read_text(encoding="utf-8"))
        sets = {name: one["metrics"] for name, one in manifest.get("sets", {}).items()}
        if manifest["metrics"]:
            rows[row["stage"]] = manifest["metrics"] | {"seconds": row["seconds"], "sets": sets}
    return rows


def read_beside(out: Path | None) -> dict[str, list[dict[str, Any]]]:
    """The lines of every trainer, with the seconds since it began."""
    found = {}
    for file in sorted(out.glob("*.jsonl")) if out is not None else ():
        seconds, lines = 0.0, []
        for line in read_jsonl(file):
            seconds += line["seconds"]
            lines.append({key: line[key] for key in ("step", "reward", "completion_length", "peak")} | {"at": seconds})
        found[file.stem] = lines
    return found


def smooth(values: list[float]) -> list[float]:
    """Means over the last five steps."""
    return [mean(values[max(0, place - SMOOTHED + 1) : place + 1]) for place in range(len(values))]


def raced(beside: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Each trainer's step and memory, and when ours had the reward that TRL ended with."""
    found: dict[str, Any] = {}
    for name, lines in beside.items():
        steps = [after["at"] - before["at"] for before, after in zip([{"at": 0.0}, *lines], lines, strict=False)]
        found[name] = {
            "steps": len(lines), "seconds": lines[-1]["at"], "seconds_per_step": median(steps),
            "peak_gib": max(line["peak"] for line in lines) / 2**30,
            "reward_at_end": smooth([line["reward"] for line in lines])[-1],
        }  # fmt: skip
    for theirs in [name for name in found if name.startswith("trl")]:
        for name in [name for name in found if name.startswith("ours")]:
            rewards = smooth([line["reward"] for line in beside[name]])
            # Not before five steps: the mean of fewer is that of luck.
            there = [line["at"] for line, reward in list(zip(beside[name], rewards, strict=True))[SMOOTHED - 1 :]
                     if reward >= found[theirs]["reward_at_end"]]  # fmt: skip
            found[name][f"seconds_to_{theirs}"] = there[0] if there else None
            found[name][f"share_of_{theirs}"] = there[0] / found[theirs]["seconds"] if there else None
            found[name][f"peak_of_{theirs}"] = found[name]["peak_gib"] / found[theirs]["peak_gib"]
    return found


def plot(run: Path, stages: dict[str, dict[str, Any]], beside: dict[str, list[dict[str, Any]]], to: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.2), constrained_layout=True)
    names = list(stages)
    for column, colour in (("pass@8", "#bbccee"), ("pass@1", "#4477aa")):
        left.bar(names, [100 * stages[name][column] for name in names], color=colour, label=column)
        for place, name in enumerate(names):
            left.plot([place] * 2, [100 * bound for bound in stages[name][f"{column}_ci95"]], color="black", lw=1)
    left.set(title="Held-out problems after each stage, T = 1, %", ylim=(0, 102))
    left.tick_params(axis="x", rotation=20)
    left.legend()
    curve = [row for row in read_jsonl(run / RL / "metrics.jsonl") if row.get("eval/pass@1") is not None]
    right.plot([row["step"] for row in curve], [100 * row["eval/pass@1"] for row in curve], "o-", color="#4477aa")
    right.set(title="pass@1 on held-out problems during reasoning RL, %", xlabel="step", ylim=(0, 102))
    figure.savefig(to / "stages.png", dpi=110)
    if not beside:
        return
    figure, axis = pyplot.subplots(figsize=(8, 4.2), constrained_layout=True)
    for name, lines in beside.items():
        rewards = smooth([line["reward"] for line in lines])
        axis.plot([line["at"] for line in lines], rewards, color="#cc6677" if name.startswith("trl") else "#4477aa",
                  label=name, alpha=0.8)  # fmt: skip
    axis.set(title="Reasoning RL from one cold start: reward (mean of 5 steps)", xlabel="seconds", ylabel="reward")
    axis.legend()
    figure.savefig(to / "reward.png", dpi=110)


def samples(run: Path, stages: dict[str, dict[str, Any]]) -> str:
    """The first sample of a few problems after each stage, as Markdown."""
    rows = {name: read_jsonl(run / name / "completions" / "evaluation.jsonl") for name in stages}
    firsts = {name: {row["id"]: row for row in rows[name][::-1]} for name in stages}  # of a problem the first
    ids = list(dict.fromkeys(row["id"] for row in rows[FINAL]))
    chosen = [*ids[:SHOWN], *ids[-SHOWN:]]
    parts = []
    for key in chosen:
        asked = firsts[FINAL][key]
        gold = f" (right: {asked['answer']})" if asked.get("answer") else ""
        parts.append(f"### {asked['prompt'][-1]['content']}{gold}\n")
        for name in stages:
            if key in firsts[name]:
                parts.append(f"{name}:\n\n```\n{firsts[name][key]['completion']}\n```\n")
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument("--beside", metavar="OUT", type=Path)
    parser.add_argument("--to", type=Path, default=HERE / "smollm2")
    chosen = parser.parse_args()
    chosen.to.mkdir(parents=True, exist_ok=True)
    stages, beside = read_stages(chosen.run), read_beside(chosen.beside)
    reached = targets(chosen.run, stages)
    for what, holds, figure in reached:
        print(f"{'ok  ' if holds else 'FAIL'}  {what:<45} {figure}")
    print(table(stages))
    summary = {
        "targets": [{"target": what, "met": holds, "figure": figure} for what, holds, figure in reached],
        "stages": stages,
        "beside": raced(beside),
    }
    print(json.dumps(summary["beside"], indent=1))
    (chosen.to / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    (chosen.to / "samples.md").write_text(samples(chosen.run, stages), encoding="utf-8")
    plot(chosen.run, stages, beside, chosen.to)
    return int(not all(holds for _, holds, _ in reached))


if __name__ == "__main__":
    sys.exit(main())
