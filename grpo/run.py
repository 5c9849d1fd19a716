"""What the loop works with: model, optimizer, reference, prompts and engine, and the state it goes on from."""

import logging
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from grpo.checkpoint.identity import identify
from grpo.checkpoint.resume import resume
from grpo.checkpoint.saver import Saver
from grpo.config.inert import check_ahead, check_quantization, inert_engine_settings, inert_settings
from grpo.config.training import OVERLONG, RLConfig, TrainConfig
from grpo.data.prompts import token_ids
from grpo.engines.choose import engine_kind, training_engine
from grpo.errors import UserError
from grpo.learner.gate import mismatch_limit
from grpo.learner.learner import Learner
from grpo.learner.make import make_learner
from grpo.model.adapter import base_model
from grpo.model.loading.limits import check_fit, check_special, embeddings
from grpo.model.policy import Policy, load_policy
from grpo.model.reference import Reference
from grpo.rollout.ahead import Ahead
from grpo.rollout.completions import save_completions
from grpo.rollout.sampler import PromptSampler, Task
from grpo.rollout.source import RolloutSource
from grpo.scoring.table import check_arguments
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
    source: RolloutSource
    state: TrainState
    saver: Saver
    limit: float  # of the difference between the engine's log-probs and the trainer's

    def boundary(self) -> bool:
        """Between two rollouts, where the run may save and stop; whether steps are left."""
        with self.source.clock("save"):
            self.saver.boundary()
        return self.state.step < self.config.steps

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
    config: TrainConfig, tasks: Mapping[str, Task], lock: RunLock, stack: ExitStack, accept_changes: bool
) -> Run:
    """Everything loaded, the last checkpoint put back and the engine filled. `stack` closes what must not stay.

    Raises:
        UserError: these settings cannot be honoured, or the checkpoints are not of this run.
    """
    kind = engine_kind(config.engine, config.runtime)
    weights = reward_weights(tasks, config)
    check_quantization(config.engine, kind, config.correction)
    check_ahead(config.engine, kind, config.correction, launched=launched())
    policy = load_policy(config.model, config.runtime, config.lora, config.seed)
    learner = make_learner(policy, config, config.runtime)
    reference = Reference.of(policy) if config.loss.beta > 0 else None
    engine = _engine(config, kind, tasks, policy, learner, stack)
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
    identity = identify(config, tasks, kind, learner.world) if is_main() else {}
    out = Path(config.out)
    state = resume(out, learner, reference, source, config.checkpoint, identity, accept_changes)
    if state.step < config.steps:
        source.sync(policy)
    return Run(
        config=config,
        lock=lock,
        policy=policy,
        learner=learner,
        reference=reference,
        source=source,
        state=state,
        saver=Saver(out, state, learner, reference, source, config.checkpoint),
        limit=limit,
    )


def _engine(
    config: TrainConfig, kind: str, tasks: Mapping[str, Task], policy: Policy, learner: Learner, stack: ExitStack
) -> RolloutEngine:
    """The engine, closed by `stack`; a warning for each setting that does nothing in this run."""
    beside = config.engine.ahead and kind == "local"
    # Every forward of a sharded model is a collective: the engine then has its own copy.
    shared = kind == "local" and not beside and not learner.sharded
    model = base_model(policy.model)
    check_special(policy.tokenizer, embeddings(model), model.generation_config.eos_token_id)
    prompts = token_ids(prompt for task in tasks.values() for prompt in task.prompts)
    longest = check_fit(model, prompts, "sampling.max_tokens", config.sampling.max_tokens)
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
