"""`grpo run` and the scripts of single stages."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grpo.errors import UserError
from stages.commands.common import Parser, add_overrides, guarded, read_recipe
from stages.recipe.config import RecipeConfig
from stages.recipe.output import check_out

RUN_EXAMPLES = """\
  grpo run tiny.yaml                                the shipped tiny recipe, to runs/tiny
  grpo run my.yaml --out runs/a seed=1 reasoning_rl.steps=50
  grpo run my.yaml --from reasoning_rl              this stage and all later ones anew
  grpo run my.yaml --until cold_start               stop after this stage
  grpo run my.yaml --profile 3                      where the time of three steps of each RL stage goes
  accelerate launch --multi_gpu --num_processes 4 -m stages.cli run my.yaml        several processes"""

STAGE_EXAMPLES = """\
  python stages/{key}.py configs/tiny.yaml
  python -m stages.{key} my.yaml --out runs/a --init MODEL seed=1"""


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="YAML file, or the name of a shipped config")
    parser.add_argument("--out", metavar="DIR", help="run folder (default: runs/<config name>)")
    parser.add_argument(
        "--accept-changes", action="store_true", help="go on inside a stage though its settings or data changed"
    )
    parser.add_argument(
        "--profile", metavar="N", help="trace N steps of each RL stage after its first (runtime.profile=N)"
    )
    add_overrides(parser)


def _read(chosen: argparse.Namespace) -> tuple[RecipeConfig, Path]:
    """The config and the run folder."""
    profile = [f"runtime.profile={chosen.profile}"] if chosen.profile else []
    config = read_recipe(chosen.config, [*chosen.overrides, *profile])
    return config, Path(chosen.out) if chosen.out else Path("runs") / Path(chosen.config).stem


def run_command(arguments: list[str]) -> int:
    """`grpo run`."""
    parser = Parser("grpo run", "Run the recipe. Finished stages are skipped, an unfinished one goes on.", RUN_EXAMPLES)
    _common(parser)
    parser.add_argument("--from", dest="from_stage", metavar="STAGE", help="run this stage and all later ones anew")
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage")
    chosen = parser.read(arguments)
    config, run = _read(chosen)

    from stages.recipe.pipeline import run_pipeline

    run_pipeline(config, run, Path(chosen.config).name, chosen.from_stage, chosen.until, chosen.accept_changes)
    return 0


def stage_command(key: str, arguments: list[str]) -> int:
    """``python stages/<stage>.py``."""
    parser = Parser(
        f"python stages/{key}.py",
        f"Run the stage {key}. Its input is the previous stage's model in the run folder, or --init.",
        STAGE_EXAMPLES.format(key=key),
    )
    _common(parser)
    parser.add_argument("--init", metavar="MODEL", help="model folder, .gguf file or hub name to start from")
    chosen = parser.read(arguments)
    config, run = _read(chosen)
    if getattr(config, key) is None:
        raise UserError(f"config '{chosen.config}': no section '{key}', so there is no such stage to run")
    if chosen.init is not None and key in ("base", "student_base"):
        raise UserError(f"--init: the {key} stage has no input; set {key}.model instead")

    from grpo.model.loading.path import check_model
    from grpo.system.lock import lock_run
    from grpo.system.world import World
    from stages.recipe.handover import given_model
    from stages.recipe.pipeline import save_config, say_engine
    from stages.recipe.planning import plan_stage
    from stages.recipe.runner import check_inputs, check_ready, run_stage
    from stages.recipe.summary import print_table, summarise
    from stages.recipe.table import STAGES

    check_out(run)
    if chosen.init is not None:
        chosen.init = given_model(chosen.init)
        check_model(chosen.init)
    with lock_run(run, World.current(), shared=True), lock_run(run / STAGES[key].folder, World.current()):
        planned = plan_stage(config, STAGES[key], run, init=chosen.init, accept_changes=chosen.accept_changes)
        if not planned.finished:
            check_inputs(config, STAGES[key], run, chosen.init)
        check_ready(config, [planned], chosen.init)
        save_config(config, run)
        say_engine(config)
        run_stage(config, planned, init=chosen.init)
        print_table(summarise(config, run, Path(chosen.config).name), config)
    return 0


def stage_main(key: str) -> None:
    """What ``python stages/<stage>.py`` runs."""
    sys.exit(guarded(lambda arguments: stage_command(key, arguments), sys.argv[1:]))
