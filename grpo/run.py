"""What the loop works with: model, optimizer, reference, prompts and engine, and the state it goes on from."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo.checkpoint.identity import identify
from grpo.checkpoint.pack import capture_rng, restore_rng
from grpo.checkpoint.resume import resume
from grpo.checkpoint.saver import Saver
from grpo.config.inert import check_ahead, check_quantization, inert_engine_settings, inert_settings
from grpo.config.training import HELD_OUT, NEEDS_CURVE, OVERLONG, RLConfig, TrainConfig
from grpo.data.prompts import token_ids
from grpo.engines.choose import engine_kind, training_engine
from grpo.engines.vllm.request import check_temperatures
from grpo.engines.vllm.teacher import ServedTeacher
from grpo.errors import UserError
from grpo.evaluation.curve import SECONDS, Curve
from grpo.learner.gate import mismatch_limit
from grpo.learner.learner import Learner
from grpo.learner.logprobs import Scores
from grpo.learner.make import make_learner
from grpo.learner.teacher import load_teacher
from grpo.model.adapter import base_model
from grpo.model.loading.limits import check_fit, check_special, embeddings
from grpo.model.loading.tokenizer import load_tokenizer
from grpo.model.policy import Policy, load_policy
from grpo.model.reference import Reference
from grpo.model.teacher import check_same_prompts, check_same_tokens
from grpo.rollout.ahead import Ahead
from grpo.rollout.completions import save_completions
from grpo.rollout.sampler import PromptSampler, Task
from grpo.rollout.source import RolloutSource
from grpo.scoring.table import check_arguments
from grpo.system import stopping
from grpo.system.clock import Clock
from grpo.system.files import flush_folder, must_write
from grpo.system.lock import RunLock
from grpo.system.world import is_main, launched
from grpo.types import Group, RolloutEngine, TrainState

log = logging.getLogger("grpo")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training, ready to begin or to go on."""

    config: TrainConfig
    lock: RunLock
    policy: Policy
    learner: Learner
    reference: Reference | None
    teacher: Scores | None
    source: RolloutSource
    state: TrainState
    saver: Saver
    limit: float  # of the difference between the engine's log-probs and the trainer's
    curve: Curve | None  # what the policy is evaluated on, on its way

    def boundary(self, evaluated: Callable[[dict[str, Any]], None]) -> bool:
        """Between two rollouts, where the policy may be `evaluated`, and the run save and stop; are steps left?"""
        self.saver.reached()
        held_out, state = None, self.state
        curve, last, updates = self.curve, self.config.steps, self.config.updates_per_rollout
        if curve is not None and state.evaluated != state.step and curve.due(state.step, last, updates):
            values = self._evaluate(curve)
            evaluated(values)
            held_out, state.evaluated, state.left_out = values[HELD_OUT], state.step, curve.left_out
        with self.source.clock("save"):
            self.saver.boundary(held_out)
        return state.step < last

    def _evaluate(self, curve: Curve) -> dict[str, Any]:
        """Training goes on as if this had not been: the random generators are put back, the engine is given the weights
        again, with which it forgets what it has sampled, and the clock of the steps does not run."""
        engine, ends = self.source.engine, self.state.step == self.config.steps
        self.saver.ready()
        start, rng = time.perf_counter(), capture_rng()
        if ends:  # no rollout follows, so it has not been given them yet
            engine.sync(self.policy)
        rollout = self.config.group_size * self.config.prompts_per_step * self.config.mini_batches
        values = curve.measure(engine, self.config.seed, rollout)  # a signal waits no longer than in a rollout
        if not ends:
            engine.sync(self.policy)
        restore_rng(rng)
        stopping.hold(True)
        return {**values, SECONDS: time.perf_counter() - start}

    def begin_rollout(self) -> TrainConfig:
        """The settings of the rollout that begins here; from now on log-probs are at its sampling temperature."""
        config = self.config.at(self.state.step)
        for scores in filter(None, (self.learner, self.teacher)):
            scores.sampled_at(config.sampling.temperature)
        return config

    def begin_updates(self, groups: list[Group]) -> None:
        """A rollout is ready to be trained on: it is written down, and from here its updates are finished first."""
        self.lock.check()
        with self.source.clock("save"):
            save_completions(Path(self.config.out), self.state.step, groups)
        self.saver.updates()

    def save_model(self) -> None:
        """The trained model, on the disk and whole for whoever reads it next.

        Raises:
            UserError: it could not be written; what was trained is in a checkpoint then.
        """
        failure = None
        try:
            save_model(self.policy, Path(self.config.out) / "model")
        except UserError as error:
            failure = str(error)
        failures = [text for text in self.learner.world.gather(failure) if text]
        if failures:
            self.saver.keep()
            raise UserError(failures[0])

    def sync(self) -> None:
        """The engine gets the policy as it is now, the reference too when it is time."""
        if self.state.step < self.config.steps:
            self.source.sync(self.policy)
        every = self.config.reference_every
        # R1 replaces the reference by the latest policy every 400 steps; here at the first rollout boundary after.
        if self.reference is not None and every and self.state.step // every > self.state.reference_step // every:
            self.reference.replace_by(self.policy)
            self.state.reference_step = self.state.step


def set_up(
    config: TrainConfig,
    tasks: Mapping[str, Task],
    lock: RunLock,
    stack: ExitStack,
    accept_changes: bool,
    curve: Curve | None = None,
) -> Run:
    """Everything loaded, the last checkpoint put back and the engine filled. `stack` closes what must not stay.

    Raises:
        UserError: these settings cannot be honoured, or the checkpoints are not of this run.
    """
    kind = engine_kind(config.engine, config.runtime)
    weights = reward_weights(tasks, config)
    if config.checkpoint.best == HELD_OUT and curve is None:
        raise UserError(f"checkpoint.best: {HELD_OUT} {NEEDS_CURVE}: give the held-out problems (evaluation=...)")
    check_quantization(config.engine, kind, config.correction)
    check_ahead(config.engine, kind, config.correction, launched=launched())
    check_teacher(config, tasks)
    policy = load_policy(config.model, config.runtime, config.lora, config.seed)
    learner = make_learner(policy, config, config.runtime)
    reference = Reference.of(policy) if config.loss.beta > 0 else None
    teacher = _teacher(config, learner, tasks)
    engine = _engine(config, kind, tasks, policy, learner, stack, curve)
    limit = mismatch_limit(kind, config.engine, config.runtime.dtype)
    sampler = PromptSampler(tasks, config.steps, config.seed, config.difficulty)
    ahead = Ahead(policy, learner, limit) if config.engine.ahead else None
    source = RolloutSource(
        sampler=sampler,
        tasks=tasks,
        engine=engine,
        config=config,
        world=learner.world,
        seed=config.seed,
        clock=Clock(),
        ahead=ahead,
        weights=weights,
    )
    identity = identify(config, tasks, kind, learner.world, curve) if is_main() else {}
    out = Path(config.out)
    state = resume(out, learner, reference, source, config.checkpoint, identity, accept_changes)
    if curve is not None:
        curve.left_out = state.left_out
    if state.step < config.steps:
        source.sync(policy)
    return Run(
        config=config,
        lock=lock,
        policy=policy,
        learner=learner,
        reference=reference,
        teacher=teacher,
        source=source,
        state=state,
        saver=Saver(out, state, learner, reference, source, config.checkpoint),
        limit=limit,
        curve=curve,
    )


def _engine(
    config: TrainConfig,
    kind: str,
    tasks: Mapping[str, Task],
    policy: Policy,
    learner: Learner,
    stack: ExitStack,
    curve: Curve | None,
) -> RolloutEngine:
    """The engine, closed by `stack`; a warning for each setting that does nothing in this run."""
    beside = config.engine.ahead and kind == "local"
    # Every forward of a sharded model is a collective: the engine then has its own copy.
    shared = kind == "local" and not beside and not learner.sharded
    if kind != "local":
        check_temperatures(config)
    model = base_model(policy.model)
    check_special(policy.tokenizer, embeddings(model), model.generation_config.eos_token_id)
    longest = check_fit(model, _ids(tasks), "sampling.max_tokens", config.sampling.max_tokens)
    if curve is not None:
        longest = max(longest, curve.fit(model))
    engine = training_engine(
        config.engine,
        policy,
        config.runtime,
        name=config.model,
        longest=longest,
        model=learner.model if shared else None,
        lora=config.lora,
    )
    stack.enter_context(closing(engine))
    lora, on_gpu = config.lora is not None, policy.device.type == "cuda"
    for line in inert_settings(config, shared) + inert_engine_settings(config.engine, kind, lora=lora, on_gpu=on_gpu):
        log.warning("this does nothing in this run: %s", line)
    return engine


def _ids(tasks: Mapping[str, Task]) -> Iterator[Sequence[int]]:
    return token_ids(prompt for task in tasks.values() for prompt in task.prompts)


def check_teacher(config: TrainConfig, tasks: Mapping[str, Task]) -> None:
    """
    Raises:
        UserError: the teacher reads other tokens or prompts than the student.
    """
    if config.loss.distill is None:
        return
    name = config.loss.distill.model
    student, teacher = load_tokenizer(config.model), load_tokenizer(name)
    check_same_tokens(student, teacher, name)
    for task in tasks.values():
        check_same_prompts(student, teacher, task.prompts, name)


def _teacher(config: TrainConfig, learner: Learner, tasks: Mapping[str, Task]) -> Scores | None:
    distill = config.loss.distill
    if distill is None:
        return None
    if distill.urls:
        return ServedTeacher.of(distill, load_tokenizer(distill.model))
    return load_teacher(distill, learner, config, config.runtime, _ids(tasks))


def reward_weights(tasks: Mapping[str, Task], config: RLConfig) -> dict[str, dict[str, float]]:
    """The weight of each reward of each task.

    Raises:
        UserError: an option names a reward that no task has; a reward needs a column that the data do not have.
    """
    for task in tasks.values():
        check_arguments(task.rewards, task.columns)
    weights = {name: {reward.name: reward.weight for reward in task.rewards} for name, task in tasks.items()}
    try:
        config.check_names({name for of_task in weights.values() for name in of_task})
    except ValueError as error:
        raise UserError(str(error)) from error
    penalty = {OVERLONG: 1.0} if config.penalty_zone else {}
    return {task: of_task | penalty for task, of_task in weights.items()}


def save_model(policy: Policy, folder: Path) -> None:
    """The trained model, on the disk when this returns.

    Raises:
        UserError: the disk did not take it; nothing half-written is left.
    """
    with must_write(folder, sum(parameter.nbytes for parameter in policy.model.parameters())):
        policy.save(folder)
        if is_main():
            flush_folder(folder)
