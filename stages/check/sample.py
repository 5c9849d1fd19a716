"""`grpo check --sample N`: what an RL stage would live on and cost, drawn with its own settings from the model of now.

It is the beginning of the stage's own run, by the core's own functions and in a folder that is thrown away: N prompts
sampled and judged as its first rollouts are, and one update of its size, whose weights are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from grpo.data.rows import Row
from grpo.errors import UserError, nearest
from grpo.model.loading.path import check_model
from grpo.system.console import say
from stages.recipe.config import RecipeConfig, RLStageConfig
from stages.recipe.handover import given_model, handed_on
from stages.recipe.planning import is_finished, plan_stage
from stages.recipe.runner import stage_context
from stages.recipe.table import STAGES, Stage, StageContext, active_parents, active_stages, lineage_of

if TYPE_CHECKING:  # torch, which a mistake need not wait for
    from grpo.run import Run
    from grpo.types import Group
    from stages.check.prospect import Judged


@dataclass(frozen=True)
class Plan:
    """What is to be drawn: for which stage, from which model, how many prompts."""

    context: StageContext
    count: int
    note: str = ""  # what is to be known of the model


@dataclass(frozen=True)
class Cost:
    """Seconds of a step, by what it does; `draws`: as often are a rollout's prompts drawn, on average. `ahead`: the
    engine samples while the trainer works."""

    phases: dict[str, float]
    draws: float
    ahead: bool = False

    @property
    def step(self) -> float:
        total, sampling = sum(self.phases.values()), self.phases["generate"]
        return max(sampling, total - sampling) if self.ahead else total


def plan_sample(config: RecipeConfig, run: Path, count: int, key: str | None, init: str | None) -> Plan:
    """
    Raises:
        UserError: there is no such stage, or what it starts from is not there.
    """
    if count < 1:
        raise UserError(f"--sample {count}: at least one prompt")
    kept = {
        stage.key: stage for stage in active_stages(config) if isinstance(getattr(config, stage.key), RLStageConfig)
    }
    if not kept:
        raise UserError("--sample: this config has no stage of RL, and of no other there is anything to draw")
    if key is not None and key not in kept:
        raise UserError(
            f"--stage {key}: no stage of RL in this config, which has {', '.join(kept)}{nearest(key, kept)}"
        )
    stage = kept[key or next(iter(kept))]
    model, note = (given_model(init), "") if init is not None else default_model(config, stage, run)
    check_model(model)
    return Plan(stage_context(config, stage, run, model), count, note)


def default_model(config: RecipeConfig, stage: Stage, run: Path) -> tuple[str, str]:
    """What the stage starts from: its parent's model, else the base's, and a note on that.

    Raises:
        UserError: neither is there, or it was made from something else than the config says now.
    """
    parent = active_parents(stage, config)[0]
    base = lineage_of(stage.key)
    for key in dict.fromkeys((parent, base)):
        note = "" if key == parent else f", for {parent} is not finished"
        if is_finished(run / STAGES[key].folder):
            plan_stage(config, STAGES[key], run)
            return str(handed_on(run / STAGES[key].folder)), note
    if (model := getattr(config, base).model) is None:
        raise UserError(
            f"--sample: stage {stage.key} starts from the model of stage {parent}, which is not finished in '{run}': "
            "run the stages before, or name a model with --init"
        )
    return model, note


def sample_stage(plan: Plan) -> None:
    """Print what the stage would live on.

    Raises:
        UserError: the stage would refuse it.
    """
    from stages.check.prospect import judged, print_prospect

    section: RLStageConfig = plan.context.section
    with TemporaryDirectory(prefix="grpo-sample-") as folder, ExitStack() as stack:
        live = begin(plan, Path(folder), stack)
        groups = draw(live, plan.count)
        seconds = live.source.clock.lap()
        apart = draw_missing(live, groups)
        live.source.engine.release()
        tasks = judged([*groups, *apart], section, apart={group.prompt.task for group in apart})
        cost = measure(live, seconds, [task for task in tasks if not task.apart])
    say(f"\n{plan.context.key} from {plan.context.init}{plan.note}")
    print_prospect(tasks, section)
    say_cost(cost, section)


def begin(plan: Plan, folder: Path, stack: ExitStack) -> Run:
    """The stage's run, before its first rollout, in `folder`; `stack` closes it."""
    from grpo.run import set_up
    from grpo.system.lock import lock_run
    from grpo.system.runtime import apply_quietly
    from grpo.system.world import World
    from stages.recipe.training import rl_training

    context, config = plan.context, plan.context.config
    runtime = config.runtime.model_copy(update={"log_level": "error"})  # as the rest of the check
    apply_quietly(runtime, config.seed)
    guard = context.guard()

    def keep(name: str, rows: Sequence[Row]) -> list[Row]:
        return guard.without(guard.leaks(rows), rows, f"{context.key}.tasks.{name}")

    settings, tasks = rl_training(context, folder / context.folder.name, keep)
    lock = stack.enter_context(lock_run(folder / context.folder.name, World.current()))
    run = set_up(settings, tasks, lock, stack, accept_changes=False)
    run.source.config = now = run.begin_rollout()  # whatever changes on its way
    return replace(run, config=now)


def draw(run: Run, count: int) -> list[Group]:
    """`count` prompts sampled and judged, a rollout's at a time: with every task, also those of the last steps."""
    from grpo.rollout.ahead import drawn_by
    from grpo.rollout.sampler import divide
    from grpo.system.progress import progress

    source, config = run.source, run.config
    size = config.rollout_prompts or config.prompts_per_step
    shares = {name: task.share for name, task in source.tasks.items()}
    groups: list[Group] = []
    with progress("sampling", total=count) as bar:
        for start in range(0, count, size):
            number = min(size, count - start)
            step = start // size * config.updates_per_rollout  # seeds the tokens, as it will
            source.begin()
            groups += source.reward(source.generate(divide(number, shares, step), step), step)
            bar.advance(number)
    return drawn_by(groups, 0)  # no update lies behind the weights


def draw_missing(run: Run, groups: Sequence[Group]) -> list[Group]:
    """One prompt of each task whose share gave it none, to be seen but not counted with the rest: it is more than the
    task's share. They come after the others, which stay what the run will draw, and belong to the last rollout."""
    from grpo.rollout.ahead import drawn_by

    source, config = run.source, run.config
    drawn = {group.prompt.task for group in groups}
    missing = {name: 1 for name in source.tasks if name not in drawn}
    if not missing:
        return []
    size = config.rollout_prompts or config.prompts_per_step
    step = (len(groups) - 1) // size * config.updates_per_rollout
    return drawn_by(source.reward(source.generate(missing, step), step), 0)


def measure(run: Run, before: Mapping[str, float], tasks: Sequence[Judged]) -> Cost:
    """Seconds of a step: those of sampling as they were `before`, those of an update by making one."""
    from grpo.advantages import assign_advantages
    from grpo.learner.batching import rows_of
    from grpo.learner.logprobs import with_kl_in_rewards, with_logprobs
    from grpo.learner.update import update

    source, config, learner = run.source, run.config, run.learner
    source.clock.lap()
    max_draws = config.dynamic_sampling.max_draws if config.dynamic_sampling else 1
    draws, share = drawn_and_trained(tasks, max_draws)
    everything = config.loss.beta > 0 or config.loss.entropy_bonus > 0 or config.loss.distill is not None
    wanted = config.prompts_per_step * (1.0 if everything else share)  # groups that an update computes with
    batch = batch_of(tasks, wanted, max_draws, everything)
    if batch:
        with source.clock("score"):
            batch = with_kl_in_rewards(learner, run.reference, batch, config)
            batch = assign_advantages(batch, config.advantage, source.weights)
            batch = with_logprobs(learner, run.reference, batch, config, run.teacher)
        with source.clock("update"):
            rows = rows_of(batch, drop_truncated=config.truncated == "mask")
            update(learner, rows, config, config.optimizer.lr, rollout=rows_of(batch), limit=run.limit)
    after, scale = source.clock.lap(), wanted / max(1, len(batch))
    updates = config.updates_per_rollout
    rollouts = config.prompts_per_step * config.mini_batches * draws / sum(len(task.groups) for task in tasks) / updates
    return Cost(
        {
            "generate": before["generate"] * rollouts,
            "reward": before["reward"] * rollouts,
            "score": after["score"] * scale / config.inner_epochs,
            "update": after["update"] * scale,
            "sync": before["sync"] / updates,
        },
        draws,
        config.engine.ahead,
    )


def batch_of(tasks: Sequence[Judged], wanted: float, max_draws: int, everything: bool) -> list[Group]:
    """Groups like those that an update computes with, as many as it wants or there are: of each task its part, evenly
    over what was drawn of it, and some twice where dynamic sampling will find more. `everything`: also those that
    teach nothing."""
    from grpo.rollout.sampler import divide

    pools = {task.name: task.groups if everything else task.teaching for task in tasks}
    parts = {task.name: float(len(task.groups)) for task in tasks}
    if not everything:
        parts = {task.name: parts[task.name] * _drawn_and_trained(task, max_draws)[1] for task in tasks}
    there = sum(map(len, pools.values()))
    if not there:
        return []
    many = divide(max(1, min(round(wanted), there)), parts, 0)
    return [pool[i * len(pool) // many[name]] for name, pool in pools.items() for i in range(many[name])]


def drawn_and_trained(tasks: Sequence[Judged], max_draws: int) -> tuple[float, float]:
    """How often a rollout's prompts are drawn, and the share of its groups that teach then."""
    total = sum(len(task.groups) for task in tasks)
    draws = trained = 0.0
    for task in tasks:
        weight, (drawn, teaching) = len(task.groups) / total, _drawn_and_trained(task, max_draws)
        draws += weight * drawn
        trained += weight * teaching
    return draws, trained


def _drawn_and_trained(task: Judged, max_draws: int) -> tuple[float, float]:
    """The same of one task."""
    share = len(task.teaching) / len(task.groups)
    if not task.redrawn:
        return 1.0, share
    draws = min(float(max_draws), 1 / share) if share else float(max_draws)
    return draws, min(1.0, share * draws)


def say_cost(cost: Cost, section: RLStageConfig) -> None:
    parts = ", ".join(f"{phase} {seconds:.3g}" for phase, seconds in cost.phases.items() if seconds >= 0.005)
    draws = f", {cost.draws:.1f} draws a rollout" if section.dynamic_sampling is not None else ""
    say(
        f"a step: {cost.step:.3g} s ({parts}{draws}); the stage's {section.steps} steps: "
        f"{duration(cost.step * section.steps)}, without checkpoints and evaluation"
    )


def duration(seconds: float) -> str:
    """In a unit that suits it."""
    units = (("days", 2 * 86400, 86400), ("hours", 2 * 3600, 3600), ("minutes", 120, 60), ("seconds", 0, 1))
    name, size = next((name, size) for name, least, size in units if seconds >= least)
    return f"about {seconds / size:.2g} {name}" if seconds < 100 * size else f"about {seconds / size:.0f} {name}"
