"""The loop: prompts -> rollouts -> rewards -> advantages -> updates -> sync. The rest of this file serves it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from grpo.advantages import assign_advantages
from grpo.batching import Row, contributing, rows_of, split_updates
from grpo.checkpoint import TrainState, checkpoints, load_checkpoint, save_checkpoint
from grpo.config import CheckpointConfig, EngineConfig, RLConfig, RuntimeConfig
from grpo.data import write_jsonl
from grpo.engine import make_engine
from grpo.errors import UserError
from grpo.metrics import Clock, MetricsWriter, rollout_metrics
from grpo.policy import Policy, load_policy
from grpo.progress import progress
from grpo.prompts import PromptSampler, Task
from grpo.schedule import lr_factor
from grpo.scoring import TrainerState, score
from grpo.types import Group
from grpo.update import Learner, update

log = logging.getLogger("grpo")

REWARD_TIMEOUT = 600.0  # seconds for one call of a reward function: a hang must not hold the run for ever


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves: `model` is the folder of the trained model, `metrics` the last step's row."""

    model: Path
    steps: int
    tokens: int
    seconds: float
    metrics: dict[str, Any]


def train(
    model: str,
    tasks: Mapping[str, Task],
    config: RLConfig,
    out: Path,
    *,
    seed: int = 0,
    engine_config: EngineConfig | None = None,
    runtime: RuntimeConfig | None = None,
    label: str = "GRPO",
) -> TrainResult:
    """Train `model` (folder or hub name) with GRPO into `out`; goes on from the last checkpoint there, if any."""
    runtime = runtime or RuntimeConfig()
    policy = load_policy(model, runtime)
    learner = make_learner(policy, config, runtime)
    reference = Reference.of(policy) if config.loss.beta > 0 else None
    sampler = PromptSampler(tasks, config.steps, seed)
    state = resume(out, learner, reference, sampler)
    engine = make_engine(engine_config or EngineConfig(), learner.model, policy.tokenizer)
    sampling = config.sample_settings()
    metrics = MetricsWriter(out / "metrics.jsonl", state.step)
    names = sorted({reward.name for task in tasks.values() for reward in task.rewards})
    clock = Clock()

    with progress(label, config.steps, state.step) as bar:
        while state.step < config.steps:
            with clock("generate"):
                prompts = sampler.next(config.rollout_prompts or config.prompts_per_step, state.step)
                groups = engine.generate(prompts, sampling, seed=seed, step=state.step)
            with clock("reward"):
                groups = score_tasks(groups, tasks, TrainerState(state.step, config.steps))
                groups = assign_advantages(groups, config.advantage)
                save_completions(out, state.step, groups)
            with clock("score"):
                batches = split_updates(groups, config.updates_per_rollout, seed, state.step)
                scored = [with_logprobs(learner, reference, batch, config) for batch in batches]
            for index, (batch, rows) in enumerate(zip(batches, scored, strict=True)):
                if state.step == config.steps:  # the last rollout may hold more than is left to do
                    break
                with clock("update"):
                    lr = config.optimizer.lr * lr_factor(config.optimizer, state.step, config.steps)
                    stats = update(learner, rows, config, lr, off_policy=index > 0)
                row = advance(state, batch, names, stats, clock)
                metrics.write(row)
                bar.advance(1, f"reward {row['reward'] or 0:.3f}, {row['completion_length']:.0f} tokens")
            with clock("sync"):
                engine.sync(policy)
            if reference is not None and config.reference_every:
                refresh(reference, policy, state, config.reference_every)
            if config.checkpoint.every:
                with clock("save"):
                    save_if_due(out, state, learner, reference, sampler, config.checkpoint)
    engine.close()
    policy.save(out / "model")
    return TrainResult(out / "model", state.step, state.tokens, state.seconds, metrics.last)


def make_learner(policy: Policy, config: RLConfig, runtime: RuntimeConfig) -> Learner:
    """AdamW over the policy's parameters, on accelerate (device, autocast)."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    precision = "bf16" if runtime.dtype == "bfloat16" else "no"
    if AcceleratorState._shared_state.get("_mixed_precision", precision) != precision:
        AcceleratorState._reset_state()  # an earlier run of this process had another dtype
    accelerator = Accelerator(cpu=policy.device.type == "cpu", mixed_precision=precision)
    if accelerator.num_processes > 1:
        raise UserError(
            f"started with {accelerator.num_processes} processes: this version trains on one; run it plainly"
        )
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        policy.model.parameters(),
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=policy.device.type in ("cpu", "cuda"),
    )
    model, optimizer = accelerator.prepare(policy.model, optimizer)
    return Learner(model, optimizer, accelerator, config.sampling.temperature, config.micro_batch_size)


@dataclass
class Reference:
    """A frozen copy of the policy, which the KL is measured against."""

    model: Any

    @classmethod
    def of(cls, policy: Policy) -> Reference:
        return cls(copy.deepcopy(policy.model).requires_grad_(False))

    def replace_by(self, policy: Policy) -> None:
        self.model.load_state_dict(policy.model.state_dict())


def refresh(reference: Reference, policy: Policy, state: TrainState, every: int) -> None:
    """R1 replaces the reference by the latest policy every 400 steps; here at the first rollout boundary after."""
    if state.step // every > state.reference_step // every:
        reference.replace_by(policy)
        state.reference_step = state.step


def resume(out: Path, learner: Learner, reference: Reference | None, sampler: PromptSampler) -> TrainState:
    """The state of the last whole checkpoint in `out`, put back; a fresh one when there is none."""
    found = checkpoints(out / "checkpoints")
    if not found:
        return TrainState(drawn=sampler.state())
    model = None if reference is None else reference.model
    state = load_checkpoint(found[-1], learner.model, learner.optimizer, model, learner.accelerator.device)
    sampler.load_state(state.drawn)
    log.warning("going on from step %d (%s)", state.step, found[-1])
    return state


def save_if_due(
    out: Path,
    state: TrainState,
    learner: Learner,
    reference: Reference | None,
    sampler: PromptSampler,
    config: CheckpointConfig,
) -> None:
    """Checkpoint when `every` steps have gone by since the last one."""
    found = checkpoints(out / "checkpoints")
    last = int(found[-1].name.removeprefix("step-")) if found else 0
    if config.every and state.step - last >= config.every:
        state.drawn = sampler.state()
        model = None if reference is None else reference.model
        save_checkpoint(out / "checkpoints", config.keep, state, learner.model, learner.optimizer, model)


def score_tasks(groups: list[Group], tasks: Mapping[str, Task], trainer_state: TrainerState) -> list[Group]:
    """Each task's groups judged by the task's rewards; the order of the groups stays."""
    scored: dict[int, Group] = {}
    for name, task in tasks.items():
        indices = [i for i, group in enumerate(groups) if group.prompt.task == name]
        if indices:
            done, _ = score(
                [groups[i] for i in indices], task.rewards, trainer_state=trainer_state, timeout=REWARD_TIMEOUT
            )
            scored.update(zip(indices, done, strict=True))
    return [scored[i] for i in range(len(groups))]


def with_logprobs(learner: Learner, reference: Reference | None, groups: list[Group], config: RLConfig) -> list[Row]:
    """The rows of one update, with log pi_old when several updates share the rollout, and log pi_ref when beta > 0.

    With a single update pi_old is pi_theta itself, and no forward is spent to learn it.
    """
    rows = rows_of(groups)
    if config.updates_per_rollout > 1:
        training = contributing(rows, config.loss.beta)
        scored = {id(row): s for row, s in zip(training, learner.score(training), strict=True)}
        rows = [replace(row, old_logprobs=scored.get(id(row))) for row in rows]
    if reference is not None:
        found = learner.score(rows, reference.model)
        rows = [replace(row, ref_logprobs=logprobs) for row, logprobs in zip(rows, found, strict=True)]
    return rows


def save_completions(out: Path, step: int, groups: list[Group]) -> None:
    """What was sampled, with rewards: one line a completion."""
    rows = (
        {
            "step": step + 1,
            "task": group.prompt.task,
            "prompt_id": group.prompt.id,
            "prompt": group.prompt.text if group.prompt.messages is None else group.prompt.messages,
            "completion": rollout.completion.text,
            "finish_reason": rollout.completion.finish_reason,
            "rewards": rollout.rewards,
            "reward": rollout.reward,
            "advantage": rollout.advantage,
        }
        for group in groups
        for rollout in group.rollouts
    )
    write_jsonl(out / "completions" / f"step-{step + 1:06d}.jsonl", rows)


def advance(
    state: TrainState, groups: list[Group], names: list[str], stats: dict[str, float | None], clock: Clock
) -> dict[str, Any]:
    """Count the step; its row of metrics.jsonl. A rollout's time falls to the first of its updates."""
    phases = clock.lap()
    seconds = sum(phases.values())
    tokens = sum(len(r.completion.token_ids) for group in groups for r in group.rollouts)
    state.step += 1
    state.tokens += tokens
    state.seconds += seconds
    state.skipped += not stats["applied"]
    return {
        "step": state.step,
        **rollout_metrics(groups, names),
        **stats,
        "seconds": seconds,
        **{f"seconds/{phase}": value for phase, value in phases.items()},
        "tokens_per_second": tokens / seconds,
    }
