"""One stage of a run, as `planning.py` found it: run what is left of it, evaluate it, write its manifest."""

from __future__ import annotations

import gc
import importlib
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from grpo.config.data import DataConfig
from grpo.data.rendering import dated
from grpo.data.rows import read_jsonl
from grpo.errors import UserError
from grpo.system import stopping
from grpo.system.fingerprint import PACKAGES, digest, versions
from grpo.system.records import write_record
from grpo.system.runtime import apply_quietly
from grpo.system.world import World, is_main
from stages.recipe.ahead import Ahead, check_places, on_hub
from stages.recipe.config import RecipeConfig, find, training_settings
from stages.recipe.handover import check_parent, check_sealed, handed_on, passed_on, sealed
from stages.recipe.leaks import LEAKS, LeakGuard, complaint, left_out
from stages.recipe.lineage import read_json
from stages.recipe.planning import PlannedStage, is_finished, read_record, with_engine
from stages.recipe.preflight import check_sections, is_here
from stages.recipe.table import STAGES, Stage, StageContext, active_parents

log = logging.getLogger("grpo")


def run_stage(config: RecipeConfig, planned: PlannedStage, init: str | None = None) -> dict[str, Any]:
    """Run what is left of a stage and return its manifest. A finished stage is skipped, or only evaluated again.

    Every process runs it, and waits wherever it reads what the main one writes.
    """
    world = World.current()
    world.wait()  # all have planned, by what was there before this stage
    with dated(planned.folder.parent):
        return _run_stage(config, planned, init, world)


def _run_stage(config: RecipeConfig, planned: PlannedStage, init: str | None, world: World) -> dict[str, Any]:
    stage, folder = planned.stage, planned.folder
    if planned.finished:
        manifest = read_json(folder / "manifest.json")
        main, sets = planned.evaluation_due()
        if not main and not sets:
            log.info("%s: finished, skipped", stage.folder)
            return manifest
        again = ["evaluation"] * main + [f"evaluation.sets.{name}" for name in sets]
        log.info("%s: finished, but %s changed: evaluating again", stage.folder, ", ".join(again))
        check_parent(folder, stage.key)
        return _evaluated(config, planned, manifest)
    config = with_engine(config, planned.lineage.settings["engine.kind"])
    context = stage_context(config, stage, folder.parent, init, planned.accept_changes)
    for key in active_parents(stage, config)[init is not None :]:
        if key in context.models:
            check_parent(folder.parent / STAGES[key].folder, key)
    record = _begin(planned)
    made = "result" in record and (folder / stage.leaves).is_dir()
    world.wait()
    if not made:
        record = _train(context, record, world)
    return _evaluated(config, planned, _manifest(config, planned, record))


def check_ready(config: RecipeConfig, planned: Sequence[PlannedStage], init: str | None = None) -> None:
    """What the stages that will really run need, and their evaluation: before anything is moved, written or computed.

    Raises:
        UserError: a reward, judge, data source or model is not there or does not take its arguments, or rows are wrong.
    """
    keys, ahead = [one.stage.key for one in planned if not one.finished], Ahead(planned[0].folder.parent)
    if keys or any(any(one.evaluation_due()) for one in planned):
        check_sections(config, ahead, [*keys, "evaluation"])
    _check_leaks(config, keys, ahead)
    if any(one.finished and any(one.evaluation_due()) for one in planned):
        _check_trained(config, [one for one in planned if one.finished])
    model = init or config.base.model
    if keys and model is not None and is_here(model):
        check_places(config, [*keys, "evaluation"], ahead, model, given=init is not None)


def _check_trained(config: RecipeConfig, finished: Sequence[PlannedStage]) -> None:
    """New problems are not among the rows that finished stages were trained on."""
    guard = LeakGuard(config)
    for one in finished:
        for file in sorted((one.folder / "data").glob("*.jsonl")):
            rows = [] if file.name.endswith(LEAKS) else read_jsonl(file)
            if leaks := guard.leaks(rows):
                text = complaint(leaks, rows, str(file), drops=False)
                raise UserError(f"stage {one.stage.key} is finished: {text}, and run it anew with --from")


def _check_leaks(config: RecipeConfig, keys: Sequence[str], ahead: Ahead) -> None:
    """Of what lies in files here: to compare all rows of functions takes longer than to read them."""
    sources = [(key, data) for key in keys for _, data in find(getattr(config, key), DataConfig)]
    later = [data for key, data in sources if data.fn is None and (key != keys[0] or not on_hub(data))]
    judged = [data for _, data in find(config.evaluation, DataConfig)]
    if not later or not judged or any(ahead.rows(data) is None for data in judged):
        return
    guard = LeakGuard(config, lambda data: ahead.rows(data) or ())
    for data in {data.model_dump_json(): data for data in later}.values():
        if rows := ahead.rows(data):
            guard.without(guard.leaks(rows), rows, str(data.path))


def check_inputs(config: RecipeConfig, stage: Stage, run: Path, init: str | None = None) -> None:
    """A parent that is not finished is the user's to run first; `init` stands in for the first one."""
    needed = active_parents(stage, config)
    for key in needed[1:] if init is not None else needed:
        if is_finished(run / STAGES[key].folder) or (init is not None and key == "base" and config.base.model):
            continue
        more = ", or give its input by --init MODEL" if key == needed[0] else ""
        raise UserError(
            f"stage {stage.key} needs the model of stage {key}, which is not finished in '{run}': "
            f"run `python stages/{key}.py CONFIG --out {run}` first{more}"
        )


def stage_context(
    config: RecipeConfig, stage: Stage, run: Path, init: str | None = None, accept_changes: bool = False
) -> StageContext:
    """What the stage is given in this run folder.

    Raises:
        UserError: what it starts from is not there.
    """
    check_inputs(config, stage, run, init)
    models = {one.key: handed_on(run / one.folder) for one in STAGES.values() if is_finished(run / one.folder)}
    if (
        stage.parents
        and "base" not in models
        and (config.base.chat_template is not None or config.base.template_kwargs)
    ):
        raise UserError(
            "base.chat_template and base.template_kwargs become part of the model in the base stage, which is not "
            f"finished in '{run}': run `grpo run CONFIG --out {run} --until base` first, or remove them"
        )
    base = str(models["base"]) if "base" in models else config.base.model or ""
    first = next((str(models[key]) for key in active_parents(stage, config)[:1] if key in models), base)
    guard = cache(lambda: LeakGuard(config))  # made where data is written: it reads the evaluation's
    return StageContext(config, stage.key, run / stage.folder, init or first, base, models, guard, accept_changes)


def _begin(planned: PlannedStage) -> dict[str, Any]:
    record = read_record(planned.folder)
    log.info("%s: %s", planned.stage.folder, "begins" if record is None else "going on")
    if record is not None and not planned.accepted:
        return record
    accepted = [*(record or {}).get("accepted_changes", []), *planned.accepted]
    lineage = {"hash": planned.lineage.hash, **asdict(planned.lineage)}
    record = {"stage": planned.stage.folder, **lineage, "accepted_changes": accepted}
    planned.folder.mkdir(parents=True, exist_ok=True)
    write_record(planned.folder / "stage.json", record)
    return record


def _train(context: StageContext, record: dict[str, Any], world: World) -> dict[str, Any]:
    """The stage's own work. Its result is kept in stage.json, so that an interrupted evaluation repeats no training."""
    stage = STAGES[context.key]
    apply_quietly(context.config.runtime, context.config.seed)
    start = time.monotonic()
    result = importlib.import_module(f"stages.{stage.key}").run(context)
    stopping.check(world)  # the model is there
    stopping.hold(False)
    if not (context.folder / stage.leaves).is_dir():
        raise RuntimeError(f"stage {stage.key} left no {stage.leaves} in {context.folder}")
    seconds = round(time.monotonic() - start, 3)
    if lost := left_out(context.folder / "data"):
        result = {**result, "decontaminated": lost}
    record = {**record, "result": result, "seconds": seconds}
    record[f"{stage.leaves}_files"] = sealed(context.folder, stage.leaves)
    if stage.leaves == "data":
        record["model"] = passed_on(context.init, context.folder)
    write_record(context.folder / "stage.json", record)
    settings = training_settings(context.config, context.key)
    # Where none were asked for, those that a signal saved go, now that the model is there.
    if is_main() and (settings is None or settings.checkpoint.every is None):
        shutil.rmtree(context.folder / "checkpoints", ignore_errors=True)
    gc.collect()  # the stage's model and optimizer, before the evaluation loads the model again
    return record


def _manifest(config: RecipeConfig, planned: PlannedStage, record: dict[str, Any]) -> dict[str, Any]:
    lineage, result = planned.lineage, dict(record["result"])
    from grpo.engines.choose import engine_kind

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
        **{name: record[name] for name in ("model", "data_files") if name in record},
        "evaluation_hash": None,
        "versions": versions((*PACKAGES, "datasets", "grpo")),
        "seed": config.seed,
        "engine": engine_kind(config.engine, config.runtime),
        "seconds": record["seconds"],
        "tokens": result.pop("tokens", None),
        "training": result,
        "metrics": {},
        "finished": None,
    }


def _evaluated(config: RecipeConfig, planned: PlannedStage, manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with the evaluation's numbers in it, written once everything it speaks of is there."""
    from stages.recipe.evaluation import evaluate_stage

    main, sets = planned.evaluation_due()
    if main or sets:
        apply_quietly(config.runtime, config.seed)
        metrics = evaluate_stage(config, planned.folder, main, sets)
        manifest["metrics"] = metrics.pop(None, manifest["metrics"])
        measured = {name: {"hash": planned.sets[str(name)], "metrics": of_set} for name, of_set in metrics.items()}
        if measured:
            manifest["sets"] = manifest.get("sets", {}) | measured
    if main:
        manifest["evaluation_hash"] = planned.evaluation
    check_sealed(planned.folder, manifest, planned.stage.key)
    manifest["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    write_record(planned.folder / "manifest.json", manifest)
    World.current().wait()
    return manifest
