"""Does LoRA reach full fine-tuning? The reasoning RL stage, twice from one cold-start model, evaluated and compared.

    python benchmarks/lora.py RUN [key.path=value ...]

RUN is a run folder of `grpo run` whose cold start is finished; its config.yaml is used, and what comes after the config
overrides it for both. The two runs go to RUN/lora-benchmark (the same command goes on with what is unfinished there),
the numbers to benchmarks/lora.json. The reference is refreshed on the way as the config says; embeddings and the output
layer, which full fine-tuning trains, have no adapter.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from grpo.data.rows import read_jsonl
from grpo.errors import UserError
from grpo.evaluation.statistics import compare_paired
from grpo.system.files import write_json
from stages.commands.common import guarded
from stages.commands.run import stage_command
from stages.recipe.lineage import read_json

LORA = (
    "reasoning_rl.lora={r: 64, alpha: 128}",
    "reasoning_rl.optimizer.lr=1.5e-3",
    "reasoning_rl.optimizer.min_lr=1e-4",
)
VARIANTS: dict[str, tuple[str, ...]] = {"full": (), "lora": LORA}
STAGE = "2-reasoning-rl"
RESULT = Path(__file__).with_suffix(".json")
WITHIN = 0.03  # pass@1 that LoRA may lack


def measured(folder: Path) -> dict[str, Any]:
    """The figures of a finished stage."""
    found = read_json(folder / "eval.json")
    rows = list(read_jsonl(folder / "metrics.jsonl"))
    return {
        **{key: found[key] for key in ("pass@1", "pass@1_ci95", "format_rate", "language_consistency")},
        "trained_parameters": trained_parameters(folder),
        "steps": rows[-1]["step"],
        "median_step_seconds": statistics.median(row["seconds"] for row in rows),
    }


def trained_parameters(folder: Path) -> int:
    """How many numbers the stage trained: those of the adapter, or of the whole model."""
    from safetensors.torch import load_file

    adapter = folder / "adapter" / "adapter_model.safetensors"
    tensors = load_file(adapter if adapter.is_file() else folder / "model" / "model.safetensors")
    return sum(tensor.numel() for tensor in tensors.values())


def correct(folder: Path) -> list[float]:
    """pass@1 of each problem, in the order of the problems."""
    rows = {row["id"]: row for row in read_jsonl(folder / "eval.problems.jsonl")}
    return [rows[name]["pass@1"] for name in sorted(rows) if rows[name].get("pass@1") is not None]


def compare(run: Path, overrides: list[str]) -> dict[str, Any]:
    """Run both variants; their figures, and the paired difference LoRA - full."""
    folders = {name: run / "lora-benchmark" / name for name in VARIANTS}
    for name, own in VARIANTS.items():
        arguments = [
            str(run / "config.yaml"),
            "--out",
            str(folders[name]),
            "--init",
            str(run / "1-cold-start" / "model"),
        ]
        stage_command("reasoning_rl", [*arguments, *overrides, *own])
    paired = compare_paired(*(correct(folder / STAGE) for folder in folders.values()))
    return {
        "settings": LORA,
        "overrides": overrides,
        "cold start": {"pass@1": read_json(run / "1-cold-start" / "eval.json")["pass@1"]},
        **{name: measured(folder / STAGE) for name, folder in folders.items()},
        "difference": {"pass@1": paired.difference, "ci95": [paired.low, paired.high], "p": paired.p_value},
        "within": WITHIN,
    }


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    print(f"\n{'':12}{'pass@1':>8}{'95%':>18}{'language':>10}{'trained':>12}{'s a step':>10}")
    print(f"{'cold start':12}{100 * result['cold start']['pass@1']:8.1f}")
    for name in VARIANTS:
        row = result[name]
        low, high = (100 * value for value in row["pass@1_ci95"])
        accuracy = (
            f"{100 * row['pass@1']:8.1f}{f'[{low:.1f}, {high:.1f}]':>18}{100 * row['language_consistency']:10.1f}"
        )
        print(f"{name:12}{accuracy}{row['trained_parameters']:12,}{row['median_step_seconds']:10.2f}")
    low, high = result["difference"]["ci95"]
    difference = f"{100 * result['difference']['pass@1']:+.1f} points, 95% [{100 * low:+.1f}, {100 * high:+.1f}]"
    print(f"lora - full: {difference}, p = {result['difference']['p']:.3f}")


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    run = Path(arguments[0])
    if not (run / "1-cold-start" / "manifest.json").is_file():
        raise UserError(f"'{run}': no run folder with a finished cold start")
    result = compare(run, arguments[1:])
    write_json(RESULT, result)
    show(result)
    return int(result["difference"]["pass@1"] < -WITHIN)


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
