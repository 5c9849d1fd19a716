"""One trainer on the tiny world's reasoning stage, a step whenever it is told to (by time_to_accuracy.py).

    accuracy_worker.py ours|trl RUN SEED EVERY FOLDER

After every EVERY steps it evaluates its model on the held-out problems; that time is not the step's.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from turns import Gate, Stop

from grpo.config.file import read_config
from grpo.config.training import CheckpointConfig, TrainConfig
from grpo.data.prompts import build_prompts
from grpo.data.rows import load_rows
from grpo.evaluation.evaluate import evaluate
from grpo.learner.schedule import lr_factor
from grpo.model.loading.tokenizer import load_tokenizer
from grpo.rollout.sampler import Task
from grpo.scoring.table import Reward
from grpo.system.runtime import apply_runtime
from grpo.trainer import train
from rewards.loader import load_reward
from stages.recipe.config import RecipeConfig
from stages.recipe.evaluation import load_judges

TRL_ROWS = 64  # completions in one forward and backward of TRL: its fastest (W1 in workloads.py)
SAMPLES = 2  # of each held-out problem


class Accuracy:
    """Tells the gate pass@1 on the held-out problems after every so many steps."""

    def __init__(self, recipe: RecipeConfig, every: int):
        self.math = recipe.evaluation.math.model_copy(update={"samples": SAMPLES})
        self.judges, self.every = load_judges(self.math), every
        self.loaded: tuple[Any, Any] | None = None  # model and tokenizer

    def of_step(self, step: int) -> dict[str, Any]:
        if (step + 1) % self.every or self.loaded is None:
            return {}
        model = self.loaded[0]
        training = model.training
        model.eval()
        found = evaluate(self.loaded, self.math, judges=self.judges)["pass@1"]
        model.train(training)
        return {"pass@1": found}


def make_tasks(recipe: RecipeConfig, init: str) -> dict[str, Task]:
    """As the stage makes them."""
    assert recipe.reasoning_rl is not None
    tokenizer = load_tokenizer(init)
    tasks = {}
    for name, task in recipe.reasoning_rl.tasks.items():
        prompts = build_prompts(load_rows(task.data), task.data, tokenizer, name)
        tasks[name] = Task(prompts, [load_reward(spec) for spec in task.rewards], task.share, task.last_steps)
    return tasks


def ours(gate: Gate, accuracy: Accuracy, recipe: RecipeConfig, init: str, seed: int, folder: Path) -> None:
    from grpo.engines.local.engine import LocalEngine

    generate = LocalEngine.generate
    evaluating = False

    def gated(self: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal evaluating
        if evaluating:  # the evaluation samples with the same class
            return generate(self, *arguments, **named)
        evaluating, accuracy.loaded = True, (self.model, self.tokenizer)
        gate.begin()
        evaluating = False
        groups = generate(self, *arguments, **named)
        gate.generated([len(rollout.completion.token_ids) for group in groups for rollout in group.rollouts])
        return groups

    LocalEngine.generate = gated  # type: ignore[method-assign]
    assert recipe.reasoning_rl is not None
    config = recipe.reasoning_rl.model_copy(update={"checkpoint": CheckpointConfig()})
    where = {"model": init, "out": str(folder / "out"), "seed": seed, "runtime": recipe.runtime}
    train(TrainConfig.of(config, **where), make_tasks(recipe, init))


def trl(gate: Gate, accuracy: Accuracy, recipe: RecipeConfig, init: str, seed: int, folder: Path) -> None:
    import datasets
    from trl import GRPOConfig, GRPOTrainer

    stage = recipe.reasoning_rl
    assert stage is not None
    (task,) = make_tasks(recipe, init).values()
    rows = [{**p.columns, "prompt": p.messages, "answer": p.answer, "prefill": p.prefill} for p in task.prompts]
    trainer = GRPOTrainer(
        model=init,
        reward_funcs=[for_trl(reward) for reward in task.rewards],
        args=GRPOConfig(
            output_dir=str(folder),
            seed=seed,
            reward_weights=[reward.weight for reward in task.rewards],
            **settings_of(stage),
        ),
        train_dataset=datasets.Dataset.from_list(rows),
    )
    # The same rates: transformers' schedule begins its warm-up at 0, which would cost TRL its first update.
    rates = partial(lr_factor, stage.optimizer, total=stage.steps)
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.create_optimizer(), rates)
    sample = trainer._generate
    accuracy.loaded = trainer.model, trainer.processing_class
    known = {str(p.messages): list(p.token_ids) for p in task.prompts}

    def gated(prompts: list[Any]) -> Any:
        gate.begin()
        found = sample(prompts)
        assert all(known[str(prompt)] == ids for prompt, ids in zip(prompts, found[0], strict=True)), "other prompts"
        gate.generated([len(ids) for ids in found[1]])
        return found

    trainer._generate = gated
    trainer.train()


def for_trl(reward: Reward) -> Callable[..., Any]:
    """The same function, given only the columns that it names, as our trainer does."""
    parameters = inspect.signature(reward.fn).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def called(**columns: Any) -> Any:
        return reward.fn(**{name: value for name, value in columns.items() if takes_all or name in parameters})

    called.__name__ = reward.name
    return called


def settings_of(stage: Any, rows: int = TRL_ROWS) -> dict[str, Any]:
    """TRL's names of the stage's settings, but for the learning rate's schedule. `rows`: in a forward and backward.

    Raises:
        SystemExit: the stage has one that this does not translate.
    """
    optimizer, loss = stage.optimizer, stage.loss
    known = stage.updates_per_rollout == 1 and stage.lora is None and stage.truncated == "keep"
    if not known or loss.kl.estimator != "k3" or loss.kl.weighted:
        raise SystemExit("only the reasoning stages of configs/tiny.yaml and configs/smollm2.yaml are known here")
    return {
        "max_steps": stage.steps,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": stage.prompts_per_step * stage.group_size // rows,
        "num_generations": stage.group_size,
        "max_completion_length": stage.sampling.max_tokens,
        "temperature": stage.sampling.temperature,
        "loss_type": {"token": "dapo", "sequence": "grpo", "constant": "dr_grpo"}[loss.aggregation],
        "epsilon": loss.clip_low,
        "epsilon_high": loss.clip_high,
        "beta": loss.beta,
        "use_bias_correction_kl": False,
        "sync_ref_model": loss.beta != 0,
        "ref_model_sync_steps": stage.reference_every,
        "ref_model_mixup_alpha": 1.0,
        "learning_rate": optimizer.lr,
        "adam_beta1": optimizer.beta1,
        "adam_beta2": optimizer.beta2,
        "weight_decay": optimizer.weight_decay,
        "max_grad_norm": optimizer.max_grad_norm,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "model_init_kwargs": {"dtype": "float32"},
    }


def main(arguments: list[str]) -> None:
    side, run, seed, every, folder = arguments
    gate = Gate()
    recipe = read_config(RecipeConfig, Path(run) / "config.yaml")
    runtime = recipe.runtime.model_copy(update={"threads": int(os.environ["OMP_NUM_THREADS"]), "log_level": "error"})
    recipe = recipe.model_copy(update={"runtime": runtime})
    apply_runtime(runtime, int(seed))
    accuracy = Accuracy(recipe, int(every))
    gate.more = lambda: accuracy.of_step(gate.step)  # type: ignore[method-assign]
    init = str(Path(run) / "1-cold-start" / "model")
    try:
        {"ours": ours, "trl": trl}[side](gate, accuracy, recipe, init, int(seed), Path(folder))
        gate.begin()  # the last step is over, too
    except Stop:
        return


if __name__ == "__main__":
    main(sys.argv[1:])
