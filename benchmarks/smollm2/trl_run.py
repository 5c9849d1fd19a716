"""TRL's GRPOTrainer on the reasoning stage of a finished cold start, a line a step: seconds, reward, peak memory.

    python benchmarks/smollm2/trl_run.py RUN OUT.jsonl [--steps 20] [--rows 32] [--dtype float32]

RUN is a run folder of `grpo run configs/smollm2.yaml`; the same model, prompts, rewards, learning rates and completions
a step as its stage 2. `--rows`: completions in one forward and backward (all at once is killed at 24 GiB). The seconds
are those of the steps alone, loading is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from accuracy_worker import for_trl, make_tasks, settings_of
from turns import resident

from grpo.config.file import read_config
from grpo.learner.schedule import lr_factor
from grpo.system.runtime import apply_runtime
from stages.recipe.config import RecipeConfig


def train(run: Path, out: Path, steps: int, rows: int, dtype: str, threads: int) -> None:
    import datasets
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    recipe = read_config(RecipeConfig, run / "config.yaml")
    runtime = recipe.runtime.model_copy(update={"threads": threads, "log_level": "error"})
    apply_runtime(runtime, recipe.seed)
    stage, init = recipe.reasoning_rl, str(run / "1-cold-start" / "model")
    assert stage is not None
    (task,) = make_tasks(recipe, init).values()
    prompts = [{**p.columns, "prompt": p.messages, "answer": p.answer, "prefill": p.prefill} for p in task.prompts]
    settings = settings_of(stage, rows) | {
        "max_steps": steps,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "bf16": dtype == "bfloat16",
        "model_init_kwargs": {"dtype": "float32"},
    }
    with out.open("w") as lines:

        class Log(TrainerCallback):  # type: ignore[misc]
            start = 0.0

            def on_step_begin(self, *arguments: Any, **named: Any) -> None:
                self.start = self.start or time.perf_counter()

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **named: Any) -> None:
                if not logs or "reward" not in logs:
                    return
                row = {"step": state.global_step, "seconds": time.perf_counter() - self.start}
                row |= {"reward": logs["reward"], "tokens": logs["completions/mean_length"]}
                row |= {key: value for key, value in logs.items() if key.startswith("rewards/")}
                lines.write(json.dumps(row | {"peak": resident("VmHWM")}) + "\n")
                lines.flush()
                print(row, flush=True)

        trainer = GRPOTrainer(
            model=init,
            reward_funcs=[for_trl(reward) for reward in task.rewards],
            args=GRPOConfig(
                output_dir=str(out.with_suffix("")),
                seed=recipe.seed,
                reward_weights=[reward.weight for reward in task.rewards],
                **settings,
            ),
            train_dataset=datasets.Dataset.from_list(prompts),
            callbacks=[Log()],
        )
        # The same rates: transformers' schedule begins its warm-up at 0, which would cost TRL its first update.
        rates = partial(lr_factor, stage.optimizer, total=stage.steps)
        trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.create_optimizer(), rates)
        trainer.train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    train(chosen.run, chosen.out, chosen.steps, chosen.rows, chosen.dtype, chosen.threads)


if __name__ == "__main__":
    main()
