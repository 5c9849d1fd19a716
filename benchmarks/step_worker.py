"""One trainer on one workload, in a process of its own that does a step whenever it is told to (by step_time.py).

    step_worker.py ours|trl WORKLOAD BETA MODEL FOLDER TRL_ROWS

Reads a line for each step, writes a JSON line after it. A step goes from one call for completions to the next;
what happens until the completions are there, text included, is its generation, the rest its update (rewards, pi_ref,
forward, backward, optimizer).
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from turns import Gate, Stop
from workloads import END, WORKLOADS, Workload

ENDLESS = 100_000  # steps: the process is told when to stop
LR = 1e-5


def reward(completions: list[str], **columns: Any) -> list[float]:
    return [float(sum(map(ord, text)) % 7) for text in completions]


def force_lengths(work: Workload) -> None:
    """The embedded engine's sampler draws as ever, then the end token goes where the step's lengths want it, with the
    log-prob that the model gives it there; an end token drawn before becomes another."""
    import numpy as np
    import torch

    from grpo.engines.local import engine as engine_local

    lengths: dict[int, int] = {}  # of the completion that a random stream belongs to
    left: tuple[int, Iterator[int]] = -1, iter(())  # the step, and its lengths that have no stream yet
    latest: list[Any] = [None]
    stream_key, uniforms, draw = engine_local.stream_key, engine_local.uniforms, engine_local.draw

    def keyed(seed: int, step: int, *rest: Any) -> int:
        nonlocal left
        if left[0] != step:
            lengths.clear()
            left = step, iter(work.lengths(step))
        key = stream_key(seed, step, *rest)
        lengths[int(key)] = next(left[1])
        return key

    def noted(keys: Any, position: Any) -> Any:
        last = np.array([lengths[int(key)] for key in keys]) - 1
        latest[0] = torch.from_numpy(last <= position)
        return uniforms(keys, position)

    def forced(logits: Any, uniform: Any, *rest: Any) -> Any:
        tokens, logprobs = draw(logits, uniform, *rest)
        ends = latest[0].to(tokens.device)
        changed = (ends != (tokens == END)).nonzero().flatten()
        if len(changed):
            tokens[changed] = torch.where(ends[changed], END, END + 1)
            scores = logits[changed].float().log_softmax(-1)
            logprobs[changed] = scores.gather(-1, tokens[changed, None]).squeeze(-1).to(logprobs.dtype)
        return tokens, logprobs

    engine_local.stream_key, engine_local.uniforms, engine_local.draw = keyed, noted, forced  # type: ignore[assignment]


def ours(gate: Gate, work: Workload, beta: float, model: str, folder: Path, rows: int) -> None:
    import grpo
    from grpo.config.data import DataConfig
    from grpo.engines.local.engine import LocalEngine

    force_lengths(work)
    generate = LocalEngine.generate
    metrics = folder / "out" / "metrics.jsonl"

    def gated(self: Any, *arguments: Any, **named: Any) -> Any:
        gate.begin()
        groups = generate(self, *arguments, **named)
        gate.generated([len(rollout.completion.token_ids) for group in groups for rollout in group.rollouts])
        return groups

    def more() -> dict[str, Any]:
        row = json.loads(metrics.read_text().splitlines()[-1])
        return {name: row[name] for name in ("executed_tokens", "update_flops", "mfu")}

    LocalEngine.generate = gated  # type: ignore[method-assign]
    gate.more = more  # type: ignore[method-assign]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in work.rows()))
    config = {
        "model": model,
        "out": str(folder / "out"),
        "steps": ENDLESS,
        "group_size": work.group,
        "prompts_per_step": work.prompts,
        "sampling": {"max_tokens": work.max_tokens},
        "loss": {"beta": beta},
        "optimizer": {"lr": LR},
        "runtime": {"device": "cuda" if gate.cuda else "cpu", "dtype": work.dtype},
        **work.ours,
    }
    grpo.train(config, rewards=[reward], dataset=DataConfig(path=str(file), template="{prompt}"))


def trl(gate: Gate, work: Workload, beta: float, model: str, folder: Path, rows: int) -> None:
    import datasets
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList
    from trl import GRPOConfig, GRPOTrainer

    total = work.prompts * work.group

    class ForcedLengths(LogitsProcessor):
        """The end token where the step's lengths want it, and nowhere else."""

        def __init__(self, width: int):
            self.width, self.last = width, torch.tensor(work.lengths(gate.step)) - 1

        def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
            ends = (self.last <= input_ids.shape[1] - self.width).to(scores.device)
            scores[:, END] = torch.where(ends, 1e4, -torch.inf)
            return scores

    config = GRPOConfig(
        output_dir=str(folder),
        max_steps=ENDLESS,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=total // rows,
        num_generations=work.group,
        max_completion_length=work.max_tokens,
        beta=beta,
        learning_rate=LR,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        use_cpu=not gate.cuda,
        bf16=work.dtype == "bfloat16",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=gate.cuda,
        model_init_kwargs={"dtype": "float32"},
    )
    trainer = GRPOTrainer(
        model=model, reward_funcs=reward, args=config, train_dataset=datasets.Dataset.from_list(work.rows())
    )
    generate: Callable[..., Any] = trainer.model.generate
    sample = trainer._generate

    def forced(*arguments: Any, **named: Any) -> Any:
        processor = LogitsProcessorList([ForcedLengths(named["input_ids"].shape[1])])
        return generate(*arguments, logits_processor=processor, **named)

    def gated(prompts: list[Any]) -> Any:
        gate.begin()
        found = sample(prompts)
        gate.generated([len(ids) for ids in found[1]])
        return found

    trainer.model.generate = forced
    trainer._generate = functools.wraps(sample)(gated)
    trainer.train()


def main(arguments: list[str]) -> None:
    side, name, beta, model, folder, rows = arguments
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    gate = Gate(cuda=name.startswith("G"))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    try:
        {"ours": ours, "trl": trl}[side](gate, WORKLOADS[name], float(beta), model, Path(folder), int(rows))
    except Stop:
        return


if __name__ == "__main__":
    main(sys.argv[1:])
