"""How the update's time grows: with the group's size, prompt and completion length, and the micro-batch's tokens.

    python benchmarks/growth.py [--repeats 4] [--threads 2] [--only group prompt completion budget]

A random Qwen3 of 4.5M parameters (W2 of step_time.py), 2 prompts, beta = 0, completions made up, one thing changed at a
time from G = 8, 128 prompt and 128 completion tokens, 8,192 tokens a micro-batch. Each point is the median of the
repeats, taken in turns over all points. "Power" is the slope of log(seconds) over log(tokens through the layers)
between neighbouring points: 1 is linear, above it is attention. Writes benchmarks/growth.json, .md and .png.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from turns import HERE
from workloads import W2, make_model

PROMPTS = 2
START = {"group": 8, "prompt": 128, "completion": 128, "budget": 8192}
SERIES = {
    "group": [4, 8, 16, 32, 64],
    "prompt": [32, 128, 512, 1024, 2048],
    "completion": [16, 64, 128, 256, 512],
    "budget": [256, 512, 1024, 2048, 4096],
}
TICKS = [0.1, 0.2, 0.5, 1, 2, 5]  # seconds
LABELS = {
    "group": "completions of a group",
    "prompt": "prompt tokens",
    "completion": "completion tokens",
    "budget": "micro_batch_tokens",
}


def make_rows(group: int, prompt: int, completion: int) -> list[Any]:
    """Rows to train on, with log-probs of nobody and advantages of either sign."""
    from grpo.learner.batching import TrainRow
    from grpo.types import Completion, Rollout

    draw = random.Random(0)
    words = range(2, W2.vocabulary)
    rows = []
    for _ in range(PROMPTS):
        ids = tuple(draw.choices(words, k=prompt))
        for sibling in range(group):
            sampled = Completion(tuple(draw.choices(words, k=completion)), (0.0,) * completion, "length", "")
            rows.append(TrainRow(ids, Rollout(sampled, reward=1.0, advantage=1.0 if sibling % 2 else -1.0)))
    return rows


def make_point(policy: Any, settings: dict[str, int]) -> Any:
    """A function that does the forward and backward of a step and returns (seconds, sums)."""
    from grpo.config.engine import RuntimeConfig
    from grpo.config.training import RLConfig
    from grpo.learner.batching import normaliser_of
    from grpo.learner.make import make_learner
    from grpo.learner.update import accumulate_gradients
    from grpo.loss import grpo_loss

    config = RLConfig.model_validate(
        {
            "steps": 1,
            "group_size": settings["group"],
            "prompts_per_step": PROMPTS,
            "sampling": {"max_tokens": settings["completion"]},
            "optimizer": {"lr": 1e-5},
            "micro_batch_tokens": settings["budget"],
        }
    )
    learner = make_learner(policy, config, RuntimeConfig(device="cpu"))
    rows = make_rows(settings["group"], settings["prompt"], settings["completion"])

    normaliser = normaliser_of(rows, config.sampling.max_tokens)
    loss = partial(grpo_loss, config=config.loss, normaliser=normaliser)

    def step() -> tuple[float, Any]:
        start = time.perf_counter()
        sums = accumulate_gradients(learner, rows, config, loss)
        seconds = time.perf_counter() - start
        learner.optimizer.zero_grad(set_to_none=True)
        return seconds, sums

    return step


def measure(only: list[str], repeats: int) -> dict[str, list[dict[str, Any]]]:
    from grpo.config.engine import RuntimeConfig
    from grpo.model.policy import load_policy

    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), W2)
        policy = load_policy(folder, RuntimeConfig(device="cpu"))
    points = {(name, value): make_point(policy, START | {name: value}) for name in only for value in SERIES[name]}
    times: dict[Any, list[float]] = {key: [] for key in points}
    sums: dict[Any, Any] = {}
    for repeat in range(repeats + 1):  # the first is warm-up
        for key, step in points.items():
            seconds, sums[key] = step()
            if repeat:
                times[key].append(seconds)
    return {
        name: [
            {
                "value": value,
                "seconds": statistics.median(times[name, value]),
                "range": [min(times[name, value]), max(times[name, value])],
                "tokens": int(sums[name, value].executed_tokens),
                "flops": sums[name, value].flops,
            }
            for value in SERIES[name]
        ]
        for name in only
    }


def powers(points: list[dict[str, Any]]) -> list[float | None]:
    """The slope of log(seconds) over log(tokens) from the point before; None for the first, and without more tokens."""
    found: list[float | None] = [None]
    for before, after in itertools.pairwise(points):
        more = math.log(after["tokens"] / before["tokens"])
        found.append(math.log(after["seconds"] / before["seconds"]) / more if more > 0.01 else None)
    return found


def table(series: dict[str, list[dict[str, Any]]]) -> str:
    """The figures as Markdown."""
    lines = ["| | value | tokens | s | us a token | power | GFLOP/s |", "|---|---:|---:|---:|---:|---:|---:|"]
    for name, points in series.items():
        for point, power in zip(points, powers(points), strict=True):
            seconds = point["seconds"]
            lines.append(
                f"| {LABELS[name]} | {point['value']} | {point['tokens']:,} | {seconds:.3f} "
                f"| {1e6 * seconds / point['tokens']:.0f} | {'' if power is None else f'{power:.2f}'} "
                f"| {point['flops'] / seconds / 1e9:.0f} |"
            )
    return "\n".join(lines) + "\n"


def plot(series: dict[str, list[dict[str, Any]]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = 3.6 * len(series), 3.6
    figure, axes = pyplot.subplots(1, len(series), figsize=size, constrained_layout=True, sharey=True)
    for axis, (name, points) in zip(axes.flat if len(series) > 1 else [axes], series.items(), strict=True):
        values = [point["value"] for point in points]
        seconds = [point["seconds"] for point in points]
        ranges = [[abs(p["range"][i] - p["seconds"]) for p in points] for i in (0, 1)]
        axis.errorbar(values, seconds, ranges, fmt="o-", color="#4477aa", capsize=3, label="measured (median, range)")
        first = points[0]
        linear = [seconds[0] * point["tokens"] / first["tokens"] for point in points]
        axis.plot(values, linear, "--", color="#888888", label="linear in tokens")
        axis.set(xscale="log", yscale="log", xlabel=LABELS[name], xticks=values, xticklabels=values)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    left = axes.flat[0] if len(series) > 1 else axes
    left.set(ylabel="seconds of forward and backward", yticks=TICKS, yticklabels=[f"{tick:g}" for tick in TICKS])
    left.legend(fontsize=8)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", nargs="+", choices=list(SERIES), default=list(SERIES))
    chosen = parser.parse_args()

    import torch

    from grpo.system.runtime import keep_memory

    keep_memory()
    torch.set_num_threads(chosen.threads)
    series = measure(chosen.only, chosen.repeats)
    record = {"threads": chosen.threads, "repeats": chosen.repeats, "start": START, "series": series}
    (HERE / "growth.json").write_text(json.dumps(record, indent=1) + "\n")
    (HERE / "growth.md").write_text(table(series))
    plot(series, HERE / "growth.png")
    print(table(series))


if __name__ == "__main__":
    main()
