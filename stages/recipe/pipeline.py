"""The whole recipe as one resumable run: plan everything, then run what is left, then print the table."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from grpo.config.yaml import dump_yaml
from grpo.errors import UserError, nearest
from grpo.system.files import write_text
from grpo.system.lock import lock_run
from grpo.system.records import read_record, write_record
from grpo.system.world import World, is_main
from stages.recipe.config import RecipeConfig
from stages.recipe.output import check_out
from stages.recipe.planning import is_finished, plan_stage
from stages.recipe.runner import check_ready, run_stage
from stages.recipe.summary import print_table, summarise
from stages.recipe.table import Stage, active_stages

log = logging.getLogger("grpo")

BEGUN = "from.json"  # in the run's folder while a run with --from is not done: how it was called


def run_pipeline(
    config: RecipeConfig,
    run: Path,
    name: str,
    from_stage: str | None = None,
    until: str | None = None,
    accept_changes: bool = False,
) -> dict[str, object]:
    """Run every stage of `config` in `run`, skipping the finished ones; returns what summary.json holds.

    Everything that lies there is compared with the config before anything is written. `from_stage` runs that stage
    and all later ones anew and moves what was there to `old-<time>/`; stopped, the same call goes on with what it
    began. `accept_changes`: an unfinished stage goes on with the settings it is given now.
    """
    check_out(run)
    world = World.current()
    with lock_run(run, world):
        stages = active_stages(config)
        first = _position(stages, from_stage, "--from") if from_stage else len(stages)
        last = _position(stages, until, "--until") if until else len(stages) - 1
        if from_stage and last < first:
            raise UserError(f"--from {from_stage} comes after --until {until}: nothing to run")
        wanted, anew = stages[: last + 1], frozenset(stage.key for stage in stages[first:])
        call: dict[str, Any] = {"from": from_stage, "until": until, "config": config.model_dump(mode="json")}
        rest = [stage for stage in stages[first : last + 1] if not is_finished(run / stage.folder)]
        # Nothing is left of it where another command, without --from, did the rest.
        going_on: bool = bool(anew) and bool(world.main_finds(lambda: rest and _began(run, call)))
        if going_on:
            going = "going on with what this command began and did not finish; to begin once more, first move '%s' away"
            log.warning(f"--from %s: {going}", from_stage, run / stages[first].folder)
            anew = frozenset()
        # Both refuse before anything is touched.
        planned = [plan_stage(config, stage, run, anew=anew, accept_changes=accept_changes) for stage in wanted]
        check_ready(config, planned)
        world.wait()
        if anew and is_main():
            (run / BEGUN).unlink(missing_ok=True)
            move_aside(run, stages[first:])
            write_record(run / BEGUN, call)  # after that: else what is to be moved would be gone on with
        world.wait()
        save_config(config, run)
        say_engine(config)
        for stage in wanted:
            run_stage(config, plan_stage(config, stage, run, accept_changes=accept_changes))
        if from_stage and is_main():
            (run / BEGUN).unlink(missing_ok=True)
        summary = summarise(config, run, name)
        print_table(summary, config)
        return summary


def _began(run: Path, call: dict[str, Any]) -> bool:
    """Whether just this call with `--from` was the last one here, and did not end."""
    try:
        return bool(read_record(run / BEGUN, "") == json.loads(json.dumps(call)))
    except (OSError, UserError):
        return False


def _position(stages: list[Stage], key: str, option: str) -> int:
    keys = [stage.key for stage in stages]
    if key not in keys:
        raise UserError(f"{option} '{key}': no such stage in this config{nearest(key, keys)}")
    return keys.index(key)


def move_aside(run: Path, stages: list[Stage]) -> None:
    """Move the folders of `stages` to old-<time>/; nothing is ever deleted."""
    present = [run / stage.folder for stage in stages if (run / stage.folder).exists()]
    if not present:
        return
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    aside = run / f"old-{stamp}"
    count = 1
    while aside.exists():  # twice in one second
        count += 1
        aside = run / f"old-{stamp}-{count}"
    aside.mkdir()
    for folder in reversed(present):  # the last stage first: what remains after a crash has its parents
        folder.rename(aside / folder.name)
    log.info("moved %s to %s", ", ".join(folder.name for folder in present), aside)


def say_engine(config: RecipeConfig) -> None:
    """What `engine: auto` is on this machine."""
    if config.engine.kind == "auto":
        from grpo.engines.choose import chosen

        log.info("engine: auto is '%s' here, for %s", *chosen(config.runtime))


def save_config(config: RecipeConfig, run: Path) -> None:
    """config.yaml: the resolved config of the run as it was last started."""
    write_text(run / "config.yaml", dump_yaml(config.model_dump(mode="json")))
