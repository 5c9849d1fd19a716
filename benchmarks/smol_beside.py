"""The reasoning stage of SmolLM2's recipe beside TRL's GRPOTrainer: seconds, reward and peak memory of every step.

    python benchmarks/smol_beside.py ours RUN OUT [--steps 60] [--seeds 0 1 2] [KEY=VALUE ...]
    python benchmarks/smol_beside.py trl RUN OUT [--steps 20] [--seeds 0] [--rows 32] [--dtype float32]

RUN is a run folder of `grpo run configs/smollm2.yaml` whose cold start is finished: both start from its model, with its
prompts, rewards, learning rates and completions a step. Ours is the stage script itself, in OUT/ours-SEED (with
evaluation, whose seconds are not the steps'), and goes on where it was stopped. TRL has as many completions in one
forward and backward as `--rows` (all at once is killed at 24 GiB). A trainer's lines are in OUT/NAME.jsonl; loading is
not counted. Nothing else may run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accuracy_worker import for_trl, make_tasks, settings_of
from turns import HERE, resident

from grpo.config.file import read_config
from grpo.data.rows import read_jsonl, write_jsonl
from grpo.learner.schedule import lr_factor
from grpo.scoring.table import Reward
from grpo.system.runtime import apply_runtime
from grpo.types import Prompt
from stages.recipe.config import RecipeConfig

COLD = Path("1-cold-start", "model")


def ours(run: Path, out: Path, seed: int, steps: int, overrides: Sequence[str]) -> None:
    """The stage script in a process of its own, whose peak of memory is its alone."""
    name, start = f"ours-{seed}", time.perf_counter()
    where = [str(run / "config.yaml"), "--out", str(out / name), "--init", str(run / COLD)]
    command = [sys.executable, str(HERE.parent / "stages" / "reasoning_rl.py"), *where]
    subprocess.run([*command, f"seed={seed}", f"reasoning_rl.steps={steps}", *overrides], check=True)
    peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # of the largest so far
    lines = read_jsonl(out / name / "2-reasoning-rl" / "metrics.jsonl")
    write_jsonl(out / f"{name}.jsonl", [{**line, "peak": peak} for line in lines])
    print(f"{name}: {time.perf_counter() - start:.0f} s with loading and evaluation, {peak / 2**30:.1f} GiB")


def trl(run: Path, out: Path, seed: int, steps: int, rows: int, dtype: str) -> None:
    import datasets
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    recipe = read_config(RecipeConfig, run / "config.yaml")
    apply_runtime(recipe.runtime.model_copy(update={"log_level": "error"}), seed)
    stage, init, name = recipe.reasoning_rl, str(run / COLD), f"trl-{seed}-{dtype}"
    assert stage is not None
    (task,) = make_tasks(recipe, init).values()
    table = [{"prompt": prompt.messages, "row": number} for number, prompt in enumerate(task.prompts)]
    with (out / f"{name}.jsonl").open("w", encoding="utf-8") as lines:

        class Log(TrainerCallback):  # type: ignore[misc]
            before = 0.0

            def on_train_begin(self, *arguments: Any, **named: Any) -> None:
                self.before = time.perf_counter()

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **named: Any) -> None:
                if not logs or "reward" not in logs:
                    return
                now = time.perf_counter()
                line = {"step": state.global_step, "reward": logs["reward"], "seconds": now - self.before}
                self.before = now
                length = {"completion_length": logs["completions/mean_length"], "peak": resident("VmHWM")}
                lines.write(json.dumps(line | length) + "\n")
                lines.flush()
                print(f"{name}: {line | length}", flush=True)

        trainer = GRPOTrainer(
            model=init,
            reward_funcs=[_by_row(reward, task.prompts) for reward in task.rewards],
            args=GRPOConfig(
                output_dir=str(out / name),
                seed=seed,
                reward_weights=[reward.weight for reward in task.rewards],
                **settings_of(stage, rows)
                | {"max_steps": steps, "logging_strategy": "steps", "logging_steps": 1, "bf16": dtype == "bfloat16"},
            ),
            train_dataset=datasets.Dataset.from_list(table),
            callbacks=[Log()],
        )
        # The same rates: transformers' schedule begins its warm-up at 0, which would cost TRL its first update.
        rates = partial(lr_factor, stage.optimizer, total=stage.steps)
        trainer.lr_scheduler = LambdaLR(trainer.create_optimizer(), rates)
        trainer.train()


def _by_row(reward: Reward, prompts: Sequence[Prompt]) -> Callable[..., Any]:
    """As TRL calls it, with the columns of the rows asked for: a table would give all tasks' metadata one shape."""
    fn = for_trl(reward)

    def called(row: Sequence[int], **columns: Any) -> Any:
        own = {name: [prompts[number].columns.get(name) for number in row] for name in prompts[0].columns}
        return fn(**columns | own | {"prefill": [prompts[number].prefill for number in row]})

    called.__name__ = reward.name
    return called


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=("ours", "trl"))
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    chosen, overrides = parser.parse_known_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    chosen.out.mkdir(parents=True, exist_ok=True)
    for seed in chosen.seeds:
        if chosen.side == "ours":
            ours(chosen.run, chosen.out, seed, chosen.steps or 60, overrides)
        else:
            trl(chosen.run, chosen.out, seed, chosen.steps or 20, chosen.rows, chosen.dtype)


if __name__ == "__main__":
    main()
