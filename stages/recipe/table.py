"""The table of stages, what a stage is given, and where it gets its input from.

A stage is a module with `run(context: StageContext) -> dict[str, Any]` that leaves `context.folder / "model"` and
returns numbers for its manifest; one that only makes data leaves `context.folder / "data"`, and hands on the model that
it was given. Everything around it (order, lineage, evaluation) is the work of `runner.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from grpo.data.rows import Row, write_jsonl
from grpo.system.world import is_main
from stages.recipe.config import EVALUATED, RecipeConfig
from stages.recipe.leaks import LEAKS, LeakGuard


@dataclass(frozen=True)
class Stage:
    """One row of the table. The first parent's model is what the stage starts from."""

    key: str  # config section, script, --from and --until
    folder: str  # run folder, manifest, table
    parents: tuple[str, ...] = ()
    leaves: Literal["model", "data"] = "model"  # data: it has no model of its own

    @property
    def evaluated(self) -> bool:
        """Reward models are not in the table."""
        return self.key in EVALUATED


STAGES = {
    stage.key: stage
    for stage in (
        Stage("base", "0-base"),
        Stage("r1_zero", "r1-zero", ("base",)),
        Stage("cold_start", "1-cold-start", ("base",)),
        Stage("reasoning_rl", "2-reasoning-rl", ("cold_start",)),
        Stage("rejection_sampling", "3-rejection-sampling", ("reasoning_rl", "base")),
        Stage("helpfulness_model", "reward-helpfulness", ("rejection_sampling",)),
        Stage("safety_model", "reward-safety", ("rejection_sampling",)),
        Stage("helpfulness_rl", "4-helpfulness-rl", ("rejection_sampling", "helpfulness_model", "safety_model")),
        Stage("student_base", "student-base"),
        Stage("student", "student", ("student_base", "rejection_sampling")),
        Stage("student_rl", "student-rl", ("student", "rejection_sampling", "helpfulness_rl")),  # teachers
    )
}


@dataclass(frozen=True)
class StageContext:
    """What a stage is given."""

    config: RecipeConfig  # the whole recipe: stages may read it, the core may not
    key: str  # "cold_start"
    folder: Path  # <run>/1-cold-start, exists
    init: str  # model folder or hub name that the stage starts from
    base: str  # the base model: rejection_sampling restarts its SFT from it
    # Finished stages of this run: key -> the model/ folder that each hands on, reward models included.
    models: dict[str, Path]
    guard: Callable[[], LeakGuard]  # what the stage trains on is compared with the evaluation's problems
    accept_changes: bool = False  # go on inside the stage with other settings than it was begun with

    @property
    def section(self) -> Any:
        """The stage's own settings."""
        return getattr(self.config, self.key)

    def write_data(self, name: str, rows: Sequence[Row]) -> list[Row]:
        """data/<name>.jsonl: the rows that the stage is about to train on. Those that hold an evaluation problem are
        left out where they may be; which they are lies beside it.

        Raises:
            UserError: there are such rows, and they are not to be dropped.
        """
        file = self.folder / "data" / f"{name}.jsonl"
        guard, aside = self.guard(), file.with_suffix(LEAKS)
        leaks = guard.leaks(rows)
        write_jsonl(file, rows)  # to look at, should they be refused
        write_jsonl(aside, map(asdict, leaks))
        kept = guard.without(leaks, rows, str(file))
        if leaks:
            write_jsonl(file, kept)
        elif is_main():
            aside.unlink()
        return kept


def active_stages(config: RecipeConfig) -> list[Stage]:
    """The stages that the config has a section for, in order."""
    return [stage for stage in STAGES.values() if getattr(config, stage.key) is not None]


def lineage_of(key: str) -> str:
    """The stage that a stage's first parents lead to: "base" or "student_base", whose tokenizer it has."""
    while STAGES[key].parents:
        key = STAGES[key].parents[0]
    return key


def active_parents(stage: Stage, config: RecipeConfig) -> list[str]:
    """The parents that are part of the run; the place of an absent first parent is taken by its own first parent."""
    if not stage.parents:
        return []
    first, *others = stage.parents
    while getattr(config, first) is None:
        first = STAGES[first].parents[0]
    present = [key for key in others if getattr(config, key) is not None]
    return list(dict.fromkeys([first, *present]))
