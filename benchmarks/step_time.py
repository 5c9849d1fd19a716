"""Seconds per GRPO step and peak memory, ours against TRL's GRPOTrainer, step by step in turn on the same work.

    make bench                                           W1 to W4 at beta = 0, W1 at 0.001: about 15 minutes on 2 cores
    python benchmarks/step_time.py --workload W2 --steps 5 --beta 0.001                                 writes nothing
    python benchmarks/step_time.py --workload W2 --steps 2 --trl-rows 16      another batch size of TRL; writes nothing

Each trainer has a process of its own for a workload and beta; they take turns, a step each, and the one whose turn it
is not waits. Both make completions of the same lengths: a hook in either sampler puts the end token where it belongs
and nowhere else. The first step, of short completions, is warm-up. TRL runs without gradient checkpointing, with its
chunked head (built in since 1.16) and the number of completions in a forward that was the fastest. Memory is the peak
above the loaded models.
Writes benchmarks/step_time.json and .md when everything was run.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from turns import HERE, Worker
from workloads import CPU_WORKLOADS, WORKLOADS, make_model

from grpo.config.training import RLConfig

SIDES = ("ours", "trl")
BETA = 0.001
CASES = [("W1", 0.0), ("W1", BETA), ("W2", 0.0), ("W3", 0.0), ("W4", 0.0)]  # of `make bench`
PACKAGES = ("torch", "transformers", "trl")


def measure(name: str, beta: float, steps: int, threads: int, folder: Path, rows: int | None = None) -> dict[str, Any]:
    """Both trainers on a workload, in turn; see `compared`."""
    work = WORKLOADS[name]
    parameters = make_model(folder / "model", work)
    rows = rows or work.trl_rows
    default = RLConfig.model_fields["micro_batch_tokens"].default
    workers = []
    for side in SIDES:
        settings = [side, name, str(beta), str(folder / "model"), str(folder / side), str(rows)]
        workers.append(Worker(side, [str(HERE / "step_worker.py"), *settings], folder / side, threads))
    for worker in workers:
        worker.read()  # it is ready
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    steps *= work.repeats
    for number in range(steps + 1):  # the first is warm-up
        for worker in workers if number % 2 else workers[::-1]:
            found[worker.side].append(worker.step())
        ours, trl = (found[side][-1] for side in SIDES)
        if (ours["tokens"], ours["longest"]) != (trl["tokens"], trl["longest"]):
            raise SystemExit(f"not the same work: {ours} and {trl}")
    for worker in workers:
        worker.stop()
    return {
        "workload": name,
        "what": work.what,
        "beta": beta,
        "parameters": parameters,
        "completions": f"{work.prompts} x {work.group}",
        "prompt_tokens": work.prompt_tokens,
        "completion_tokens": {"mean": statistics.mean(work.lengths(1)), "max": max(work.lengths(1))},
        "trl_rows_per_forward": rows,
        "counted": steps,
        "our_micro_batch_tokens": work.ours.get("micro_batch_tokens", default),
        **compared(*(found[side][1:] for side in SIDES)),
        "steps": found,
    }


def compared(ours: list[dict[str, Any]], trl: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of each side, and TRL's figures over ours: median and quartiles of the ratios step by step."""
    sides = {"ours": [split(step) for step in ours], "trl": [split(step) for step in trl]}
    medians = {
        side: {
            key: statistics.median(step[key] for step in steps) for key in ("seconds", "generation", "update", "cpu")
        }
        | {"peak_mb": max(step["peak"] for step in steps) / 1e6}
        for side, steps in sides.items()
    }
    ratios = {}
    for key in ("seconds", "generation", "update"):
        each = [b[key] / a[key] for a, b in zip(sides["ours"], sides["trl"], strict=True)]
        low, middle, high = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
        ratios[key] = {"ratio": middle, "quartiles": [low, high]}
    memory = medians["ours"]["peak_mb"] / medians["trl"]["peak_mb"]
    mfu = [step["mfu"] for step in ours if step.get("mfu") is not None]
    return {**medians, "trl/ours": ratios, "peak ours/trl": memory, "mfu": statistics.median(mfu) if mfu else None}


def split(step: dict[str, Any]) -> dict[str, Any]:
    return {**step, "update": step["seconds"] - step["generation"]}


def table(results: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = [
        "| workload | beta | | step, s | generation | update | peak, MB |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for row in results:
        for side in SIDES:
            own = row[side]
            label = f"{row['workload']} {row['what']} | {row['beta']:g}" if side == "ours" else " | "
            seconds = " | ".join(f"{own[key]:.2f}" for key in ("seconds", "generation", "update"))
            lines.append(f"| {label} | {side} | {seconds} | {own['peak_mb']:,.0f} |")
        cells = []
        for key in ("seconds", "generation", "update"):
            found = row["trl/ours"][key]
            low, high = found["quartiles"]
            cells.append(f"**{found['ratio']:.2f}×** ({low:.2f} to {high:.2f})")
        lines.append(f"| | | TRL/ours | {' | '.join(cells)} | {1 / row['peak ours/trl']:.2f}× |")
    return "\n".join(lines) + "\n"


def settings_of(results: list[dict[str, Any]], threads: int) -> str:
    """What was compared, in words."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    rows, tokens, counted = (
        ", ".join(dict.fromkeys(f"{row['workload']}: {row[key]}" for row in results))
        for key in ("trl_rows_per_forward", "our_micro_batch_tokens", "counted")
    )
    work = "; ".join(
        dict.fromkeys(
            f"{row['workload']}: {row['completions']}, {row['prompt_tokens']} prompt tokens, completions of "
            f"{row['completion_tokens']['mean']:.0f} tokens on average and {row['completion_tokens']['max']} at most, "
            f"{row['parameters'] / 1e6:.2f}M parameters"
            for row in results
        )
    )
    return (
        f"{work}. Medians over the steps after a warm-up ({counted}), trainers in turn, {threads} threads, {versions}. "
        f"TRL: no gradient checkpointing, its chunked head, completions per forward (its fastest) {rows}. Ours: tokens "
        f"per forward {tokens}. Completions have the same lengths on both sides. Ratios: medians over the steps, each "
        "with its neighbour, in brackets their quartiles. Peak memory: above the loaded models. Ours has glibc keep "
        "freed memory, as in every run.\n"
    )


def run(cases: list[tuple[str, float]], steps: int, threads: int, rows: int | None) -> list[dict[str, Any]]:
    """`measure` each workload and beta."""
    results = []
    for name, beta in cases:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(name, beta, steps, threads, Path(folder), rows))
        print(table(results[-1:]) + f"{time.monotonic() - began:.0f} s", flush=True)
    return results


def write(stem: Path, results: list[dict[str, Any]], threads: int) -> None:
    """JSON and Markdown beside each other."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    record = {"threads": threads, "versions": versions, "results": results}
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    stem.with_suffix(".md").write_text(settings_of(results, threads) + "\n" + table(results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", nargs="+", choices=list(CPU_WORKLOADS))
    parser.add_argument("--steps", type=int, default=5, help="after the warm-up; four times as many of W1's short ones")
    parser.add_argument("--beta", nargs="+", type=float)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--trl-rows", type=int, help="completions in one forward of TRL")
    chosen = parser.parse_args()
    cases = [
        (name, beta)
        for name, beta in CASES
        if name in (chosen.workload or CPU_WORKLOADS) and beta in (chosen.beta or (0.0, BETA))
    ]
    if chosen.workload and chosen.beta:
        cases = [(name, beta) for name in chosen.workload for beta in chosen.beta]
    results = run(cases, chosen.steps, chosen.threads, chosen.trl_rows)
    whole = cases == CASES and chosen.steps >= 5 and chosen.trl_rows is None
    if whole:
        write(HERE / "step_time", results, chosen.threads)
    print(settings_of(results, chosen.threads) + "\n" + table(results))


if __name__ == "__main__":
    main()
