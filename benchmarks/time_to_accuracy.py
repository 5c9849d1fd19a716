"""Wall-clock to 80% pass@1 on held-out problems: ours and TRL, from one cold start, with the same hyperparameters.

    python benchmarks/time_to_accuracy.py RUN [--seeds 0 1 2] [--target 0.8] [--every 1] [--most 100]

RUN is a run folder of `grpo run configs/tiny.yaml` whose cold start is finished; the reasoning stage of its config.yaml
is what both train. TRL has the same learning rate at every update and the number of
completions in a forward that was its fastest. The trainers of a seed take turns, a step each; every few steps each
model is evaluated on the config's held-out problems, which is not counted. Writes benchmarks/time_to_accuracy.json
and .md for three seeds or more. Minutes, from a cold start with a pass@1 of a half; a weak one takes far longer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from turns import HERE, Worker

SIDES = ("ours", "trl")


def race(run: Path, seed: int, target: float, every: int, most: int, threads: int, folder: Path) -> dict[str, Any]:
    """Each side's steps, seconds and accuracies until it is there, or has done `most` steps."""
    workers = []
    for side in SIDES:
        arguments = [side, str(run), str(seed), str(every), str(folder / side)]
        workers.append(Worker(side, [str(HERE / "accuracy_worker.py"), *arguments], folder / side, threads))
    for worker in workers:
        worker.read()  # it is ready
    found: dict[str, dict[str, Any]] = {
        side: {"reached": False, "steps": 0, "seconds": 0.0, "generation": 0.0, "tokens": 0, "curve": []}
        for side in SIDES
    }
    for _ in range(most):
        for worker in workers:
            own = found[worker.side]
            if not own["reached"]:
                count(own, worker.step(), target)
    for worker in workers:
        worker.stop()
    return found


def count(own: dict[str, Any], step: dict[str, Any], target: float) -> None:
    """Add a step to what a side has done."""
    own["steps"] += 1
    for key in ("seconds", "generation", "tokens"):
        own[key] += step[key]
    if "pass@1" in step:
        own["curve"].append({"step": own["steps"], "seconds": own["seconds"], "pass@1": step["pass@1"]})
        own["reached"] = step["pass@1"] >= target


def table(results: dict[int, dict[str, Any]], target: float) -> str:
    """The figures as Markdown; a side that did not get there has `more than`."""
    lines = [
        f"| seed | ours, s to {target:.0%} | steps | TRL, s to {target:.0%} | steps | TRL/ours | of a step |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for seed, found in results.items():
        cells = []
        for side in SIDES:
            own = found[side]
            cells += [f"{'' if own['reached'] else 'more than '}{own['seconds']:.1f}", str(own["steps"])]
        whole, step = (of(found["trl"]) / of(found["ours"]) for of in (lambda own: own["seconds"], of_a_step))
        lines.append(f"| {seed} | {' | '.join(cells)} | {whole:.2f} | {step:.2f} |")
    return "\n".join(lines) + "\n"


def of_a_step(own: dict[str, Any]) -> float:
    """Seconds, on average."""
    return float(own["seconds"] / own["steps"])


def verdict(results: dict[int, dict[str, Any]]) -> str:
    if not all(found[side]["reached"] for found in results.values() for side in SIDES):
        return "Not every run got there: no ratio."
    total = {side: [found[side]["seconds"] for found in results.values()] for side in SIDES}
    ratio = statistics.mean(total["trl"]) / statistics.mean(total["ours"])
    return f"Mean of the seeds: {ratio:.2f} times TRL's speed to the target."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--target", type=float, default=0.8)
    parser.add_argument("--every", type=int, default=1, help="steps between evaluations")
    parser.add_argument("--most", type=int, default=100, help="steps")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    if not (chosen.run / "1-cold-start" / "manifest.json").is_file():
        raise SystemExit(f"error: '{chosen.run}': no run folder with a finished cold start")
    results = {}
    for seed in chosen.seeds:
        with tempfile.TemporaryDirectory() as folder:
            found = race(chosen.run, seed, chosen.target, chosen.every, chosen.most, chosen.threads, Path(folder))
        for side in SIDES:
            curve = ", ".join(f"{100 * point['pass@1']:.0f}" for point in found[side]["curve"])
            print(f"seed {seed}, {side}: pass@1 {curve} every {chosen.every} steps", flush=True)
        results[seed] = found
    text = table(results, chosen.target) + "\n" + verdict(results) + "\n"
    print(text)
    if len(results) >= 3:
        record = {"target": chosen.target, "every": chosen.every, "threads": chosen.threads, "seeds": results}
        (HERE / "time_to_accuracy.json").write_text(json.dumps(record, indent=1) + "\n")
        (HERE / "time_to_accuracy.md").write_text(text)


if __name__ == "__main__":
    main()
