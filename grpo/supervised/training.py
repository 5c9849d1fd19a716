"""What every training on a Hugging Face Trainer shares: data order, optimizer, arguments, metrics, the end by a signal.

The order of the data is a pure function of (seed, rows, steps) and handed to the Trainer as a sequence, so every batch
is full, an epoch needs no special case, and an interrupted training goes on with the rows it had not seen.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState

from grpo.config.training import OptimizerConfig
from grpo.data.rows import Row, rows_hash
from grpo.errors import UserError
from grpo.learner.decay import decay_groups
from grpo.learner.gate import check_weights
from grpo.learner.schedule import lr_factor
from grpo.model.loading.device import pick_device
from grpo.model.loading.limits import check_fit
from grpo.monitoring.alarms import Alarms, sft_alarms
from grpo.monitoring.metrics import MetricsWriter
from grpo.supervised import Training
from grpo.supervised.checkpoints import checkpoint_to_resume
from grpo.supervised.length import length_of
from grpo.system import stopping
from grpo.system.numbers import mean
from grpo.system.progress import Bar, progress
from grpo.system.world import World, cut

log = logging.getLogger("grpo")

ExampleT = TypeVar("ExampleT")


def drop_overlong(
    examples: Sequence[ExampleT], length: Callable[[ExampleT], int], training: Training
) -> list[ExampleT]:
    """The examples of at most `max_tokens`; how many were dropped is said.

    Raises:
        UserError: none is left.
    """
    limit, title = training.config.max_tokens, training.title
    kept = [example for example in examples if length(example) <= limit]
    if not kept:
        raise UserError(f"{title}: every example is over max_tokens={limit}; raise it")
    if len(kept) < len(examples):
        dropped = len(examples) - len(kept)
        log.warning("%s: %d of %d examples over %d tokens: dropped", title, dropped, len(examples), limit)
    return kept


def training_order(lengths: Sequence[int], batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """Row numbers of each step's batch: one random permutation of all rows after the other.

    Batches are never grouped by length: that would save padding, but a step then sees one kind of row only, and the
    tiny world's base model needs several times the tokens to learn (measured).
    """
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < steps * batch_size:
        order += torch.randperm(len(lengths), generator=generator).tolist()
    batches = [order[start : start + batch_size] for start in range(0, steps * batch_size, batch_size)]
    # Within a batch the order is free: neighbours in length share a micro-batch, which saves padding.
    return [sorted(batch, key=lambda row: lengths[row]) for batch in batches]


def make_optimizer(model: Any, config: OptimizerConfig, steps: int) -> tuple[Any, Any]:
    """AdamW and its schedule."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = decay_groups(trained, config.weight_decay)
    betas = (config.beta1, config.beta2)
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=betas, fused=trained[0].device.type in ("cpu", "cuda"))
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(config, step, steps))


def trainer_arguments(training: Training, steps: int) -> dict[str, Any]:
    """Keyword arguments for TrainingArguments and for TRL's versions of it: nothing but the training itself."""
    config, runtime = training.config, training.runtime
    micro, accumulated = cut(config.batch_size, config.micro_batch_size, World.current().size)
    device = pick_device(runtime).type
    if runtime.parallel == "fsdp":
        log.warning("runtime.parallel=fsdp shards RL stages; here every process holds a whole model")
    return {
        "output_dir": str(training.out / "checkpoints"),
        "max_steps": steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulated,
        "train_sampling_strategy": "sequential",  # the data set is already in training order
        "max_grad_norm": config.optimizer.max_grad_norm,
        "seed": training.seed,
        "use_cpu": device == "cpu",
        "bf16": runtime.dtype == "bfloat16",
        "fp16": runtime.dtype == "float16",  # with loss scaling; the weights stay fp32
        "gradient_checkpointing": False,
        "ddp_find_unused_parameters": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": device == "cuda",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a loss that is not a number stops the run, see StepLog
        "eval_strategy": "no",
        "save_strategy": "no" if config.checkpoint.every is None else "steps",
        "save_steps": config.checkpoint.every or steps,
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
    }


def on_one_device(settings: Any) -> Any:
    """Training arguments with which one process uses one GPU: where it sees several, transformers would wrap the model
    in DataParallel, and take as many times the rows a step."""
    if settings.n_gpu > 1:
        settings._n_gpu = 1
    return settings


def fit(
    make_trainer: Callable[..., Trainer],
    model: Any,
    rows: Sequence[Row],
    lengths: Sequence[int],
    training: Training,
    save: Callable[[], None],
    held_out: Sequence[Row] = (),
) -> dict[str, Any]:
    """Train `model` in place, or go on from the last checkpoint, and `save` it; metrics to metrics.jsonl.

    `make_trainer` takes the arguments, and by name the model, `train_dataset` and `optimizers`. `lengths`: of the rows.
    `held_out`: rows that the model is tried on afterwards.

    Returns steps, passes over the rows, loss (mean of the last 20 steps), tokens, seconds.

    Raises:
        UserError: the checkpoints are damaged or of other rows, or the loss, a gradient or the weights are no numbers.
        Stopped: by a signal, after the step; it is saved.
    """
    texts = (ids for row in rows for ids in row.values() if isinstance(ids, list))
    check_fit(model, texts, f"{training.title}: a row")
    length = length_of(training.config, len(rows), World.current().size)
    for remark in length.remarks:
        log.warning("%s: %s", training.title, remark)
    training = replace(training, config=length.config)
    config, out, steps = length.config, training.out, length.steps
    order = training_order(lengths, config.batch_size, steps, training.seed)
    trainer = make_trainer(
        trainer_arguments(training, steps),
        model=model,
        train_dataset=Dataset.from_list(list(rows)).select([row for batch in order for row in batch]),
        optimizers=make_optimizer(model, config.optimizer, steps),
    )
    tokens = [sum(lengths[row] for row in batch) for batch in order]
    trainer.keeping, trainer.rows_hash = config.checkpoint, rows_hash([*rows, *held_out])
    checkpoint = checkpoint_to_resume(out / "checkpoints", trainer, config.checkpoint, training.accept_changes)
    done = int(checkpoint.name.removeprefix("step-")) if checkpoint else 0
    trainer.remove_callback(PrinterCallback)
    began = time.perf_counter()
    with progress(training.title, total=steps, done=done) as bar:
        metrics = MetricsWriter(out / "metrics.jsonl", done)
        trainer.add_callback(StepLog(metrics, bar, tokens, config.optimizer.lr))
        with stopping.later():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            stopping.check(World.current())
    try:
        World.current().main_finds(save)
    except UserError:
        trainer._save_checkpoint(model, None)  # so that the same command has only this left to do
        raise
    loss = mean(row["loss"] for row in metrics.rows[-20:])
    seconds = time.perf_counter() - began
    return {"steps": steps, "passes": length.passes, "loss": loss, "tokens": sum(tokens), "seconds": seconds}


def settings_restored(model: Any) -> Callable[[], None]:
    """What puts back the model's settings as they are now: trainers write the tokenizer's tokens, and a pad token that
    they have chosen, into them."""
    held = [model.config, model.config.get_text_config(), getattr(model, "generation_config", None)]
    before = [(settings, dict(vars(settings))) for settings in held if settings is not None]

    def restore() -> None:
        for settings, values in before:
            vars(settings).clear()
            vars(settings).update(values)

    return restore


class StepLog(TrainerCallback):
    """One row in metrics.jsonl and one tick of the bar a step, and the end after a signal."""

    def __init__(self, writer: MetricsWriter, bar: Bar, tokens: Sequence[int], lr: float) -> None:
        self._metrics, self._alarms = writer, Alarms(sft_alarms)
        self._bar, self._tokens, self._lr = bar, tokens, lr
        self._last = time.perf_counter()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._last = time.perf_counter()

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or "loss" not in logs:  # the summary at the end
            return
        now = time.perf_counter()
        row = {
            "step": state.global_step,
            "loss": logs["loss"],
            "lr": logs.get("learning_rate"),
            "grad_norm": logs.get("grad_norm"),
            "tokens": self._tokens[state.global_step - 1],
            "seconds": now - self._last,
        }
        self._last = now
        self._metrics.write(row)
        self._alarms.look(self._metrics.rows)
        for name in ("loss", "grad_norm"):
            value = row[name]
            if value is not None and not math.isfinite(value) and not (name == "grad_norm" and args.fp16):  # it scales
                problem = f"step {state.global_step}: the {'gradient' if name == 'grad_norm' else name} is {value}"
                raise UserError(f"{problem}; lower optimizer.lr or add warmup_steps")
        self._bar.advance(1, f"loss {row['loss']:.3f}")

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, model: Any, **_: Any) -> None:
        """Whether the weights can be saved, before they are. After a signal: save, and stop; all at the same step."""
        check_weights((p for p in model.parameters() if p.requires_grad), state.global_step, self._lr)
        if any(World.current().gather(stopping.asked())):
            control.should_save = control.should_training_stop = True
