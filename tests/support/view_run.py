"""A small run folder for the tests of `grpo view`: a finished SFT stage, an RL stage at step 4 of 9."""

import json
from pathlib import Path
from typing import Any

SFT, RL = "1-cold-start", "2-reasoning-rl"
RESULTS = {
    "n_problems": 40, "pass@1": 0.5, "pass@1_ci95": [0.35, 0.65], "format_rate": 1.0, "language_consistency": 0.75,
    "general": None, "general_ci95": None, "helpfulness": None, "helpfulness_ci95": None, "safety": None,
    "safety_ci95": None, "over_refusal": None,
}  # fmt: skip
SAMPLING = {"temperature": 0.6, "top_p": 0.95, "samples_per_problem": 4, "format_required": True}


def make_run(run: Path, steps: int = 4) -> Path:
    """`run` with its two stages; every step of RL has two prompts with a right and a wrong completion."""
    write(run / SFT / "manifest.json", {"seconds": 70.0, "metrics": RESULTS | {"seconds": 5.2}})
    write(run / SFT / "eval.json", RESULTS | SAMPLING)
    lines(run / SFT / "metrics.jsonl", [{"step": s, "loss": 1 / s, "lr": 0.1, "seconds": 0.1} for s in (1, 2, 3)])
    write(run / RL / "stage.json", {"settings": {"seed": 0, "reasoning_rl.steps": 9, "reasoning_rl.x.steps": 3}})
    lines(run / RL / "metrics.jsonl", [row(step) for step in range(1, steps + 1)])
    for step in range(1, steps + 1):
        rows = [
            sample(step, f"p{i}", f"What is {step}+{i}?", f"{name} of step {step}", {"accuracy": score, "format": 1.0})
            for i in range(2)
            for name, score in (("right", 1.0), ("wrong", 0.0))
        ]
        rows[1]["finish_reason"] = "length"
        lines(run / RL / "completions" / f"step-{step:06d}.jsonl", rows)
    write(run / "summary.json", {"config": "small.yaml", "seed": 3, "seconds": 75.2, "stages": [summary_row()]})
    return run


def summary_row() -> dict[str, Any]:
    return {"stage": SFT, "seconds": 75.2, **RESULTS}


def row(step: int) -> dict[str, Any]:
    """A row of metrics.jsonl; every seventh KL is not defined."""
    return {
        "step": step, "reward": 1 + step / 100, "reward/accuracy": step / 1000, "reward/<b>": 0.5,
        "kl": None if step % 7 == 0 else 0.01 * step, "clip_fraction": 0.0, "correction": None,
        "logprob_mismatch": 1e-6, "logprob_mismatch_max": 2e-5, "seconds/generate": 0.5,
        "seconds/update": 0.25 * step, "seconds": 1.0, "of_my_own": float(step % 5),
    }  # fmt: skip


def sample(
    step: int, prompt_id: str, prompt: str, completion: str, rewards: dict[str, float | None], task: str = "sums"
) -> dict[str, Any]:
    """One line of a step's completions; the total is accuracy plus half of format."""
    total = (rewards.get("accuracy") or 0.0) + 0.5 * (rewards.get("format") or 0.0)
    return {
        "step": step, "task": task, "prompt_id": prompt_id, "prompt": [{"role": "user", "content": prompt}],
        "completion": completion, "finish_reason": "stop", "rewards": rewards, "reward": total,
        "advantage": 1.0 if rewards.get("accuracy") else -1.0,
    }  # fmt: skip


def complete(
    stage: Path,
    step: int,
    completions: list[str],
    prompt: str = "?",
    task: str = "sums",
    rewards: list[dict[str, float | None]] | None = None,
    totals: list[float | None] | None = None,
) -> None:
    """The step's completions of one prompt, of the rewards and totals given."""
    rewards = rewards or [{"accuracy": float(i == 0)} for i in range(len(completions))]
    rows = [sample(step, "p", prompt, text, own, task) for text, own in zip(completions, rewards, strict=True)]
    if totals is not None:
        rows = [line | {"reward": total, "advantage": 0.0} for line, total in zip(rows, totals, strict=True)]
    lines(stage / "completions" / f"step-{step:06d}.jsonl", rows)


def write(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")


def lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in rows), encoding="utf-8")
