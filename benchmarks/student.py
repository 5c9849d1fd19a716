"""A student of a third of the size in the tiny world: SFT on stage 3's data alone, and on-policy distillation after it.

    python benchmarks/student.py [--seeds 0 1 2] [--out runs/student] [key.path=value ...]

Each seed is a run of configs/tiny.yaml up to stage 3, whose model teaches, and of the three stages of a student
(`STUDENT`; the corpus is the teacher's, so the tokens are the same). pass@1 is of the run's own evaluation, with 95%
intervals over problems; the difference is paired by problem. The same command goes on with what is unfinished, and
writes benchmarks/student.json and .md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from grpo.config.yaml import load_yaml
from grpo.data.rows import read_jsonl
from grpo.evaluation.statistics import compare_paired
from grpo.system.files import write_json, write_text
from stages.commands.common import find_config, guarded
from stages.commands.run import run_command
from stages.recipe.lineage import read_json

RESULT = Path(__file__).with_suffix(".json")
STAGES = {"teacher": "3-rejection-sampling", "SFT": "student", "SFT + on-policy": "student-rl"}
SMALLER = {"hidden_size": 64, "intermediate_size": 232}
LEFT_OUT = ("helpfulness_model", "safety_model", "helpfulness_rl")
ARITHMETIC = {"fn": "stages.tiny_world.arithmetic", "kwargs": {"split": "train", "n": 4000, "seed": 11}}
GENERAL = {"fn": "stages.tiny_world.general", "kwargs": {"split": "train", "n": 3000}}
ON_POLICY: dict[str, Any] = {
    "steps": 60,
    "group_size": 4,
    "prompts_per_step": 64,
    "sampling": {"temperature": 1.0, "max_tokens": 80},
    "tasks": {  # the rewards are watched: the teacher alone gives the advantages
        "arithmetic": {"data": ARITHMETIC, "rewards": [{"fn": "accuracy", "kwargs": {"strict": True}}]},
        "general": {"data": GENERAL, "share": 0.5, "rewards": [{"fn": "stages.tiny_world.general_oracle"}]},
    },
    "loss": {"aggregation": "token", "distill": {"model": "{run}/3-rejection-sampling/model"}},
    "optimizer": {"lr": 5e-4, "warmup_steps": 3, "beta2": 0.95, "schedule": "linear", "min_lr": 5e-5},
    "micro_batch_tokens": 8192,
    "checkpoint": {"every": 20},
}


def student(config: dict[str, Any]) -> dict[str, Any]:
    """Its sections, beside those of the teacher's run: the same corpus and steps, a third of the parameters."""
    base, taught = config["base"], config["rejection_sampling"]
    kept = ("steps", "batch_size", "micro_batch_size", "max_tokens", "optimizer")
    return {
        "student_base": {**base, "pretrain": {**base["pretrain"], **SMALLER}},
        "student": {key: taught[key] for key in kept},
        "student_rl": ON_POLICY,
    }


def measured(run: Path) -> dict[str, Any]:
    """Of each model: pass@1 with its interval, parameters, seconds; and what on-policy distillation added."""
    found: dict[str, Any] = {}
    scores = {}
    for name, folder in STAGES.items():
        result = read_json(run / folder / "eval.json")
        manifest = read_json(run / folder / "manifest.json")
        found[name] = {"pass@1": result["pass@1"], "ci95": result["pass@1_ci95"], "seconds": manifest["seconds"]}
        rows = {row["id"]: row.get("pass@1") for row in read_jsonl(run / folder / "eval.problems.jsonl")}
        scores[name] = {key: value for key, value in rows.items() if value is not None}
    before, after = scores["SFT"], scores["SFT + on-policy"]
    paired = compare_paired(list(before.values()), [after[key] for key in before])
    kl = [row["teacher_kl"] for row in read_jsonl(run / "student-rl" / "metrics.jsonl")]
    found["difference"] = {"pass@1": paired.difference, "ci95": [paired.low, paired.high], "p": paired.p_value}
    found["teacher_kl"] = {"first": sum(kl[:5]) / len(kl[:5]), "last": sum(kl[-5:]) / len(kl[-5:])}
    found["parameters"] = {
        "teacher": read_json(run / "0-base" / "manifest.json")["training"]["parameters"],
        "student": read_json(run / "student-base" / "manifest.json")["training"]["parameters"],
    }
    return found


def table(results: dict[str, dict[str, Any]]) -> str:
    """The figures as Markdown, by seed."""
    lines = [f"| seed | {' | '.join(STAGES)} | on-policy adds | p | KL to the teacher |", "|---|" + "---:|" * 6]
    for seed, found in results.items():
        cells = [shown(found[name]["pass@1"], found[name]["ci95"]) for name in STAGES]
        difference, kl = found["difference"], found["teacher_kl"]
        cells += [shown(difference["pass@1"], difference["ci95"], "+"), f"{difference['p']:.4f}"]
        lines.append(f"| {seed} | {' | '.join(cells)} | {kl['first']:.3f} → {kl['last']:.3f} |")
    return "\n".join(lines) + "\n"


def shown(value: float, interval: list[float], sign: str = "") -> str:
    low, high = (f"{100 * bound:{sign}.1f}" for bound in interval)
    return f"{100 * value:{sign}.1f} [{low}, {high}]"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", default="runs/student")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    chosen = parser.parse_args(arguments)
    file = find_config("tiny.yaml")
    sections = student(load_yaml(Path(file).read_text(encoding="utf-8"), "tiny.yaml"))
    own = [f"{key}=null" for key in LEFT_OUT] + [f"{key}={json.dumps(value)}" for key, value in sections.items()]
    results = {}
    for seed in chosen.seeds:
        run = Path(chosen.out) / f"seed-{seed}"
        run_command([str(file), "--out", str(run), f"seed={seed}", *own, *chosen.overrides])
        results[str(seed)] = measured(run)
        write_json(RESULT, {"student": {**SMALLER, "on_policy": ON_POLICY}, "seeds": results})
        write_text(RESULT.with_suffix(".md"), table(results))
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
