"""What each part of the reasoning stage does: the tiny world's stage 2 with one thing changed at a time, three seeds.

    make ablate        (about half an hour on 2 cores; --seeds 0 --only recipe random-reward for a part)

Every seed has its own base model and cold start; every variant starts from that cold start. A rollout feeds four
updates, so that clip and ratio have something to do. Writes benchmarks/ablation.json, .md and .png.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
CONFIG = PROJECT / "configs" / "tiny.yaml"
WORKERS = 2  # runs at a time, one thread each: models this small gain little from a second thread

COMMON = [
    "runtime.threads=1",
    "runtime.log_level=warning",
    "evaluation.math.samples=16",
    "evaluation.math.k=[16]",
    "reasoning_rl.steps=40",
    "reasoning_rl.prompts_per_step=12",
    "reasoning_rl.rollout_prompts=48",
    "reasoning_rl.reference_every=16",
    "reasoning_rl.loss.clip_low=10",
    "reasoning_rl.loss.clip_high=10",
    "reasoning_rl.checkpoint.every=null",
]
REWARDS = "reasoning_rl.tasks.arithmetic.rewards"
VARIANTS: dict[str, tuple[str, list[str]]] = {
    "recipe": ("token ratio, clip 10, KL 0.001, reference refreshed, std", []),
    "random-reward": ("a coin decides", [f"{REWARDS}=[{{fn: benchmarks.ablate.coin}}]"]),
    "no-std": ("advantages not divided by the group's std", ["reasoning_rl.advantage.scale=none"]),
    "no-kl": ("beta = 0", ["reasoning_rl.loss.beta=0", "reasoning_rl.reference_every=null"]),
    "no-refresh": ("the reference stays the cold start", ["reasoning_rl.reference_every=null"]),
    "no-language": (
        "without the language reward",
        [f"{REWARDS}=[{{fn: accuracy, kwargs: {{strict: true}}}}, {{fn: format, weight: 0.5}}]"],
    ),
    "clip-0.2": ("clip 0.2", ["reasoning_rl.loss.clip_low=0.2", "reasoning_rl.loss.clip_high=0.2"]),
    "sequence-ratio": ("ratio of whole sequences, clip 10", ["reasoning_rl.loss.ratio=sequence"]),
}
METRICS = ("pass@1", "pass@16", "language_consistency", "mean_tokens")


def coin(completions: list[Any], trainer_state: Any, **_: Any) -> list[float]:
    """A reward that says nothing; the same for the same completion at the same step."""
    return [float(random.Random(f"{trainer_state.global_step}-{text}").random() < 0.5) for text in completions]


def grpo(arguments: list[str], log: Path) -> None:
    """Run a command of ours in a process of its own."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        done = subprocess.run([sys.executable, "-m", *arguments], cwd=PROJECT, stdout=out, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{log.read_text()[-2000:]}")


def start(out: Path, seed: int) -> None:
    """Base and cold start of a seed."""
    folder = out / f"start-{seed}"
    arguments = ["stages.cli", "run", str(CONFIG), "--out", str(folder), "--until", "cold_start", f"seed={seed}"]
    grpo([*arguments, *COMMON], out / f"start-{seed}.log")


def train(out: Path, variant: str, seed: int) -> None:
    """Stage 2 of a variant from its seed's cold start, and its evaluation."""
    init = out / f"start-{seed}" / "1-cold-start" / "model"
    folder = out / f"{variant}-{seed}"
    arguments = ["stages.reasoning_rl", str(CONFIG), "--out", str(folder), "--init", str(init), f"seed={seed}"]
    grpo([*arguments, *COMMON, *VARIANTS[variant][1]], out / f"{variant}-{seed}.log")


def results(folder: Path, stage: str) -> dict[str, float]:
    values = json.loads((folder / stage / "eval.json").read_text())
    return {name: values[name] for name in METRICS}


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    lines = ["| variant | pass@1 | seeds | pass@16 | language | tokens |", "|---|---|---|---|---|---|"]
    for name, seeds in rows.items():
        what = VARIANTS[name][0] if name in VARIANTS else "where all of them start"
        average = {metric: mean(seed[metric] for seed in seeds) for metric in METRICS}
        each = " ".join(f"{100 * seed['pass@1']:.1f}" for seed in seeds)
        lines.append(
            f"| {name} ({what}) | {100 * average['pass@1']:.1f} | {each} | {100 * average['pass@16']:.1f} "
            f"| {100 * average['language_consistency']:.1f} | {average['mean_tokens']:.0f} |"
        )
    return "\n".join(lines)


def plot(rows: dict[str, list[dict[str, float]]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 4), sharey=True, constrained_layout=True)
    names = list(rows)[::-1]
    for axis, metric in zip(axes, ("pass@1", "pass@16", "language_consistency"), strict=True):
        averages = [100 * mean(seed[metric] for seed in rows[name]) for name in names]
        axis.barh(names, averages, color=["#888888" if n == "cold start" else "#4477aa" for n in names])
        for place, name in enumerate(names):
            axis.plot([100 * seed[metric] for seed in rows[name]], [place] * len(rows[name]), "k.", markersize=4)
        axis.set(title=f"{metric}, %", xlim=(0, 102))
    figure.suptitle("Stage 2 of the tiny world with one thing changed; bars: mean, dots: seeds")
    figure.savefig(file, dpi=110)


def verdict(rows: dict[str, list[dict[str, float]]]) -> list[str]:
    """What would mean that the run is wrong."""
    wrong = []
    average = {name: {m: mean(seed[m] for seed in seeds) for m in METRICS} for name, seeds in rows.items()}
    if average["random-reward"]["pass@1"] > average["cold start"]["pass@1"] + 0.05:
        wrong.append("a random reward raised pass@1")
    if average["no-language"]["language_consistency"] > average["recipe"]["language_consistency"] - 0.02:
        wrong.append("language consistency did not fall without its reward")
    if average["recipe"]["pass@1"] < average["cold start"]["pass@1"] + 0.1:
        wrong.append("the recipe did not raise pass@1")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PROJECT / "runs" / "ablate")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    arguments = parser.parse_args()
    began = time.monotonic()
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda seed: start(arguments.out, seed), arguments.seeds))
        jobs = [(variant, seed) for seed in arguments.seeds for variant in arguments.only]
        for done, (variant, seed) in enumerate(pool.map(lambda job: (train(arguments.out, *job), job)[1], jobs), 1):
            print(f"{done}/{len(jobs)} {variant}, seed {seed}: {time.monotonic() - began:.0f} s", flush=True)
    rows = {"cold start": [results(arguments.out / f"start-{seed}", "1-cold-start") for seed in arguments.seeds]}
    for variant in arguments.only:
        rows[variant] = [results(arguments.out / f"{variant}-{seed}", "2-reasoning-rl") for seed in arguments.seeds]
    print(table(rows))
    if arguments.only != list(VARIANTS) or len(arguments.seeds) < 3:
        return 0
    seconds = round(time.monotonic() - began)
    (HERE / "ablation.json").write_text(json.dumps({"seconds": seconds, "results": rows}, indent=1) + "\n")
    (HERE / "ablation.md").write_text(table(rows) + "\n")
    plot(rows, HERE / "ablation.png")
    wrong = verdict(rows)
    print("\n".join(f"WRONG: {what}" for what in wrong) or f"as it should be, {seconds} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
