"""What is to be done for a stage: is it finished, was it made from something else, may it go on? Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpo.config.data import MOST_TOKENS
from grpo.config.training import RLConfig
from grpo.errors import UserError
from grpo.system.files import check_leads_somewhere
from grpo.system.fingerprint import digest
from grpo.system.lock import LOCK
from grpo.system.world import World, check_sharding, cut
from stages.recipe.config import EvalSetConfig, EvaluationConfig, PretrainConfig, RecipeConfig, training_settings
from stages.recipe.lineage import (
    Lineage,
    changed,
    input_hashes,
    model_hash,
    read_json,
    stage_inputs,
    stage_settings,
    without_paths,
)
from stages.recipe.table import STAGES, Stage, active_parents

ENGINES = ("local", "vllm", "vllm-server")  # what a stage may have been begun with that goes on with `engine: auto`

NOTHING_YET = (
    "stage.json",
    "stage.json.partial",
    LOCK,
)  # a folder with no more than that: the stage stopped before it made anything


@dataclass(frozen=True)
class PlannedStage:
    """A stage, where it lies, what determines it, and whether it is done."""

    stage: Stage
    folder: Path
    lineage: Lineage
    finished: bool
    accept_changes: bool = False
    accepted: tuple[str, ...] = ()  # what differs from what it was begun with, and may
    evaluation: str | None = None  # hash of how its model is to be evaluated; None: it is not
    sets: Mapping[str, str] = field(default_factory=dict)  # of each set that it is tried on

    def evaluation_due(self) -> tuple[bool, list[str]]:
        """Whether the model has to be evaluated, and on which sets: of a finished stage those that it was not, or
        otherwise. Numbers of an evaluation that the config no longer has stay."""
        manifest: dict[str, Any] = {"evaluation_hash": None}
        if is_finished(self.folder):
            manifest = read_json(self.folder / "manifest.json", "evaluation_hash")
        done = {name: one["hash"] for name, one in manifest.get("sets", {}).items()}
        main = self.evaluation is not None and manifest["evaluation_hash"] != self.evaluation
        return main, [name for name, wanted in self.sets.items() if done.get(name) != wanted]


def is_finished(folder: Path) -> bool:
    """The manifest is written last: its presence means the stage is done."""
    return (folder / "manifest.json").is_file()


def plan_stage(
    config: RecipeConfig,
    stage: Stage,
    run: Path,
    init: str | None = None,
    anew: frozenset[str] = frozenset(),
    accept_changes: bool = False,
) -> PlannedStage:
    """Compare what is in the run folder with what the config asks for. Nothing is written.

    `anew`: keys of stages that will be moved aside, so what lies there does not count. `accept_changes`: a stage that
    is not finished may go on from something else than it was begun with.

    Raises:
        UserError: the stage's folder was made from other settings, inputs or parents, or is no stage's folder.
    """
    _check_processes(config, stage)
    folder = run / stage.folder
    lineage = _lineage(config, stage, run, init, anew)
    asked = config.evaluation.math or config.evaluation.general
    evaluation = evaluation_hash(config.evaluation) if stage.evaluated and asked else None
    check_leads_somewhere(folder)
    sets = {name: set_hash(one) for name, one in config.evaluation.sets_after(stage.key).items() if stage.evaluated}
    if stage.key in anew:
        return PlannedStage(stage, folder, lineage, finished=False, evaluation=evaluation, sets=sets)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"'{folder}' is a file, but stage {stage.key} needs a folder there: give another --out")
    record = read_record(folder)
    if record is None and folder.is_dir() and any(path.name not in NOTHING_YET for path in folder.iterdir()):
        raise UserError(f"'{folder}' holds files but no stage.json: not a stage's folder; give another --out")
    finished = is_finished(folder)
    accepted: list[str] = []
    if record is not None and record["hash"] != lineage.hash:
        accepted = changed(record, lineage)
        if finished or not accept_changes:
            _refuse_changes(stage, folder, accepted, finished)
    if finished and not (folder / stage.leaves).is_dir():
        raise UserError(f"'{folder}': its {stage.leaves}/ is gone; rerun it with --from {stage.key}")
    return PlannedStage(stage, folder, lineage, finished, accept_changes, tuple(accepted), evaluation, sets)


def evaluation_hash(config: EvaluationConfig) -> str:
    """Changes when the evaluation would: settings or the contents of local files."""
    tree = config.model_dump(mode="json", exclude={"decontaminate", "every", "sets"})  # none is a setting of it
    if config.math is not None:
        tree["math"]["max_tokens"] = config.math.max_tokens or MOST_TOKENS  # the same, wherever both may be
    return digest([without_paths(tree), sorted(input_hashes(tree).values())])


def set_hash(config: EvalSetConfig) -> str:
    """`evaluation_hash` of one more set."""
    tree = config.model_dump(mode="json", exclude={"after"}) | {"max_tokens": config.max_tokens or MOST_TOKENS}
    return digest([without_paths(tree), sorted(input_hashes(tree).values())])


def _check_processes(config: RecipeConfig, stage: Stage) -> None:
    """Whether the processes can share the stage's work, before hours go into an earlier one."""
    settings = training_settings(config, stage.key)
    if isinstance(settings, RLConfig):
        check_sharding(config.runtime.parallel)
    elif settings is not None:
        where = f"{stage.key}.pretrain" if isinstance(settings, PretrainConfig) else stage.key
        cut(settings.batch_size, settings.micro_batch_size, World.current().size, f"{where}: ")


def _lineage(config: RecipeConfig, stage: Stage, run: Path, init: str | None, anew: frozenset[str]) -> Lineage:
    """What determines the stage. Begun with an engine, it goes on with that where the config leaves it open: `auto` is
    another one on another machine, and was not always the default."""
    record = None if stage.key in anew else read_record(run / stage.folder)
    lineages = [_lineage_with(config, stage, run, init, anew)]
    if record is not None and record["hash"] != lineages[0].hash and config.engine.kind == "auto":
        lineages += [_lineage_with(with_engine(config, kind), stage, run, init, anew) for kind in ENGINES]
    return next((one for one in lineages if record is not None and one.hash == record["hash"]), lineages[0])


def with_engine(config: RecipeConfig, kind: str) -> RecipeConfig:
    """The config with this `engine.kind`."""
    return config.model_copy(update={"engine": config.engine.model_copy(update={"kind": kind})})


def _lineage_with(config: RecipeConfig, stage: Stage, run: Path, init: str | None, anew: frozenset[str]) -> Lineage:
    parents = {key: _parent_hash(config, key, run, anew) for key in active_parents(stage, config)}
    if init is not None:
        parents.pop(active_parents(stage, config)[0], None)
        parents = {"init": model_hash(init), **parents}
    record = None if stage.key in anew else read_record(run / stage.folder)
    known = record["inputs"] if record else {}
    return Lineage(stage_settings(config, stage.key, known), stage_inputs(config, stage.key, known), parents)


def _parent_hash(config: RecipeConfig, key: str, run: Path, anew: frozenset[str]) -> str:
    record = read_record(run / STAGES[key].folder)
    if record is not None and key not in anew:
        return str(record["hash"])
    return _lineage(config, STAGES[key], run, None, anew).hash


def read_record(folder: Path) -> dict[str, Any] | None:
    """What the stage was begun from (stage.json); None when it was not, or stopped before it made anything."""
    file = folder / "stage.json"
    if not file.is_file() or all(path.name in NOTHING_YET for path in folder.iterdir()):
        return None
    return read_json(file, "hash", "settings", "inputs", "parents")


def _refuse_changes(stage: Stage, folder: Path, found: list[str], finished: bool) -> None:
    shown = "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
    state, way = ("was made", "") if finished else ("was begun", "go on all the same with --accept-changes, ")
    raise UserError(
        f"stage {stage.key} in '{folder}' {state} from something else ({shown}): "
        f"{way}give another --out, or run it and all later stages anew with grpo run --from {stage.key}"
    )
