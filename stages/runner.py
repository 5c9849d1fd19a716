"""One stage of a run: is it done, was it made from something else, run it, evaluate it, write its manifest."""

from __future__ import annotations

import gc
import importlib
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from grpo.config import RLConfig
from grpo.errors import UserError
from grpo.files import write_json
from grpo.parallel import World, check_sharding, cut, is_main
from grpo.run_lock import LOCK
from stages.config import BaseConfig, RecipeConfig
from stages.handover import check_parent, check_sealed, sealed
from stages.manifest import Lineage, changes, digest, input_hashes, model_hash, read_json, stage_settings, versions
from stages.preflight import check_sections
from stages.stage import STAGES, Stage, StageContext, active_parents

log = logging.getLogger("grpo")

NOTHING_YET = ("stage.json", LOCK)  # a folder with no more than that: the stage stopped before it made anything


@dataclass(frozen=True)
class PlannedStage:
    """A stage, where it lies, what determines it, and whether it is done."""

    stage: Stage
    folder: Path
    lineage: Lineage
    finished: bool
    accept_changes: bool = False
    accepted: tuple[str, ...] = ()  # what differs from what it was begun with, and may


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
    if stage.key in anew:
        return PlannedStage(stage, folder, lineage, finished=False)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"'{folder}' is a file, but stage {stage.key} needs a folder there: give another --out")
    record = _record(folder)
    if record is None and folder.is_dir() and any(path.name not in NOTHING_YET for path in folder.iterdir()):
        raise UserError(f"'{folder}' holds files but no stage.json: not a stage's folder; give another --out")
    finished = is_finished(folder)
    accepted: list[str] = []
    if record is not None and record["hash"] != lineage.hash:
        accepted = changes(record, lineage)
        if finished or not accept_changes:
            _refuse_changes(stage, folder, accepted, finished)
    if finished and not (folder / "model").is_dir():
        raise UserError(f"'{folder}': its model/ is gone; rerun it with --from {stage.key}")
    return PlannedStage(stage, folder, lineage, finished, accept_changes, tuple(accepted))


def _check_processes(config: RecipeConfig, stage: Stage) -> None:
    """Whether the processes can share the stage's work, before hours go into an earlier one."""
    section = getattr(config, stage.key)
    settings, where = (section.pretrain, "base.pretrain") if isinstance(section, BaseConfig) else (section, stage.key)
    if isinstance(settings, RLConfig):
        check_sharding(config.runtime.parallel)
    elif settings is not None:
        cut(settings.batch_size, settings.micro_batch_size, World.current().size, f"{where}: ")


def _lineage(config: RecipeConfig, stage: Stage, run: Path, init: str | None, anew: frozenset[str]) -> Lineage:
    parents = {key: _parent_hash(config, key, run, anew) for key in active_parents(stage, config)}
    if init is not None:
        parents.pop(active_parents(stage, config)[0], None)
        parents = {"init": model_hash(init), **parents}
    record = None if stage.key in anew else _record(run / stage.folder)
    known = record["inputs"] if record else {}
    settings = stage_settings(config, stage.key, known)
    return Lineage(settings, input_hashes(getattr(config, stage.key), known), parents)


def _parent_hash(config: RecipeConfig, key: str, run: Path, anew: frozenset[str]) -> str:
    record = _record(run / STAGES[key].folder)
    if record is not None and key not in anew:
        return str(record["hash"])
    return _lineage(config, STAGES[key], run, None, anew).hash


def _record(folder: Path) -> dict[str, Any] | None:
    """What the stage was begun from (stage.json); None when it was not, or stopped before it made anything."""
    file = folder / "stage.json"
    if not file.is_file() or all(path.name in NOTHING_YET for path in folder.iterdir()):
        return None
    return read_json(file)


def _refuse_changes(stage: Stage, folder: Path, found: list[str], finished: bool) -> None:
    shown = "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
    state, way = ("was made", "") if finished else ("was begun", "go on all the same with --accept-changes, ")
    raise UserError(
        f"stage {stage.key} in '{folder}' {state} from something else ({shown}): "
        f"{way}give another --out, or run it and all later stages anew with grpo run --from {stage.key}"
    )


def run_stage(config: RecipeConfig, planned: PlannedStage, init: str | None = None) -> dict[str, Any]:
    """Run what is left of a stage and return its manifest. A finished stage is skipped, or only evaluated again.

    Every process runs it, and waits wherever it reads what the main one writes.
    """
    from stages.evaluation import evaluation_hash

    world = World.current()
    world.wait()  # all have planned, by what was there before this stage
    stage, folder = planned.stage, planned.folder
    evaluation = evaluation_hash(config.evaluation) if stage.evaluated else None
    if planned.finished:
        manifest = read_json(folder / "manifest.json")
        if not _evaluation_due(config, planned):
            log.info("%s: finished, skipped", stage.folder)
            return manifest
        log.info("%s: finished, but the evaluation settings changed: evaluating again", stage.folder)
        check_parent(folder, stage.key)
        return _evaluated(config, planned, manifest, evaluation)
    context = _context(config, planned, init)
    for key in active_parents(stage, config)[init is not None :]:
        if key in context.models:
            check_parent(context.models[key].parent, key)
    record = _begin(planned)
    trained = "result" in record and (folder / "model").is_dir()
    world.wait()
    if not trained:
        record = _train(context, record, world)
    return _evaluated(config, planned, _manifest(config, planned, record), evaluation)


def check_ready(config: RecipeConfig, planned: Sequence[PlannedStage]) -> None:
    """What the stages that will really run need, and their evaluation: before anything is moved, written or computed.

    Raises:
        UserError: a reward, judge, data source or model is not there, or does not take its arguments.
    """
    keys = [one.stage.key for one in planned if not one.finished]
    if keys or any(_evaluation_due(config, one) for one in planned):
        check_sections(config, planned[0].folder.parent, [*keys, "evaluation"])


def _evaluation_due(config: RecipeConfig, planned: PlannedStage) -> bool:
    """Whether the model of a finished stage has to be evaluated again."""
    from stages.evaluation import evaluation_hash

    manifest = read_json(planned.folder / "manifest.json")
    return planned.stage.evaluated and manifest["evaluation_hash"] != evaluation_hash(config.evaluation)


def check_inputs(config: RecipeConfig, planned: PlannedStage, init: str | None = None) -> None:
    """A parent that is not finished is the user's to run first; `init` stands in for the first one."""
    run, stage = planned.folder.parent, planned.stage
    needed = active_parents(stage, config)
    for key in needed[1:] if init is not None else needed:
        if is_finished(run / STAGES[key].folder) or (init is not None and key == "base" and config.base.model):
            continue
        more = ", or give its input by --init MODEL" if key == needed[0] else ""
        raise UserError(
            f"stage {stage.key} needs the model of stage {key}, which is not finished in '{run}': "
            f"run `python stages/{key}.py CONFIG --out {run}` first{more}"
        )


def _context(config: RecipeConfig, planned: PlannedStage, init: str | None) -> StageContext:
    check_inputs(config, planned, init)
    run, stage = planned.folder.parent, planned.stage
    models = {other.key: run / other.folder / "model" for other in STAGES.values() if is_finished(run / other.folder)}
    base = str(models["base"]) if "base" in models else config.base.model or ""
    first = next((str(models[key]) for key in active_parents(stage, config)[:1] if key in models), base)
    return StageContext(config, stage.key, planned.folder, init or first, base, models, planned.accept_changes)


def _begin(planned: PlannedStage) -> dict[str, Any]:
    record = _record(planned.folder)
    log.info("%s: %s", planned.stage.folder, "begins" if record is None else "going on")
    if record is not None and not planned.accepted:
        return record
    lineage = planned.lineage
    record = {
        "stage": planned.stage.folder,
        "hash": lineage.hash,
        "settings": lineage.settings,
        "inputs": lineage.inputs,
        "parents": lineage.parents,
        "accepted_changes": [*(record or {}).get("accepted_changes", []), *planned.accepted],
    }
    planned.folder.mkdir(parents=True, exist_ok=True)
    write_json(planned.folder / "stage.json", record)
    return record


def _train(context: StageContext, record: dict[str, Any], world: World) -> dict[str, Any]:
    """The stage's own work. Its result is kept in stage.json, so that an interrupted evaluation repeats no training."""
    from stages.runtime import apply_runtime

    stage = STAGES[context.key]
    apply_runtime(context.config.runtime, context.config.seed)
    start = time.monotonic()
    result = importlib.import_module(stage.module).run(context)
    world.wait()  # the model is there
    if not (context.folder / "model").is_dir():
        raise RuntimeError(f"stage {stage.key} left no model in {context.folder}")
    seconds = round(time.monotonic() - start, 3)
    record = {**record, "result": result, "seconds": seconds, "model_files": sealed(context.folder)}
    write_json(context.folder / "stage.json", record)
    _drop_checkpoints(context)
    gc.collect()  # the stage's model and optimizer, before the evaluation loads the model again
    return record


def _drop_checkpoints(context: StageContext) -> None:
    """Where none were asked for, those that a signal saved, now that the model is there."""
    checkpoint = getattr(getattr(context.config, context.key), "checkpoint", None)
    if is_main() and (checkpoint is None or checkpoint.every is None):
        shutil.rmtree(context.folder / "checkpoints", ignore_errors=True)


def _manifest(config: RecipeConfig, planned: PlannedStage, record: dict[str, Any]) -> dict[str, Any]:
    lineage, result = planned.lineage, dict(record["result"])
    return {
        "stage": planned.stage.folder,
        "status": "finished",
        "config": getattr(config, planned.stage.key).model_dump(mode="json"),
        "config_hash": digest(lineage.settings),
        "hash": lineage.hash,
        "parents": lineage.parents,
        "parent_hash": next(iter(lineage.parents.values()), None),
        "accepted_changes": record.get("accepted_changes", []),
        "input_hashes": lineage.inputs,
        "data_hashes": result.pop("data_hashes", {}),
        "model_files": record.get("model_files"),
        "evaluation_hash": None,
        "versions": versions(),
        "seed": config.seed,
        "engine": config.engine.kind,
        "seconds": record["seconds"],
        "tokens": result.pop("tokens", None),
        "training": result,
        "metrics": {},
        "finished": None,
    }


def _evaluated(
    config: RecipeConfig, planned: PlannedStage, manifest: dict[str, Any], evaluation: str | None
) -> dict[str, Any]:
    """The manifest with the evaluation's numbers in it, written once everything it speaks of is there."""
    from stages import evaluation as evaluations
    from stages.runtime import apply_runtime

    if planned.stage.evaluated:
        apply_runtime(config.runtime, config.seed)
        manifest["metrics"] = evaluations.evaluate_stage(config, planned.folder)
    manifest["evaluation_hash"] = evaluation
    check_sealed(planned.folder, manifest.get("model_files"), planned.stage.key)
    manifest["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(planned.folder / "manifest.json", manifest)
    World.current().wait()
    return manifest
