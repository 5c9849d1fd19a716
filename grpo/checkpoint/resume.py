"""Going on from a checkpoint: which one, with what changes, and everything put back."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo.checkpoint.identity import (
    check_same,
    differences,
    evaluation_of,
    shown,
    without_evaluation,
)
from grpo.checkpoint.pack import restore_rng
from grpo.checkpoint.store import last_good, load_behaviour, load_checkpoint, read_state, tidy
from grpo.config.training import CheckpointConfig
from grpo.errors import UserError
from grpo.learner.learner import Learner
from grpo.model.reference import Reference
from grpo.rollout.completions import drop_completions
from grpo.rollout.source import RolloutSource
from grpo.system.files import must_write
from grpo.system.records import read_record, write_record
from grpo.system.world import is_main
from grpo.types import TrainState

log = logging.getLogger("grpo")

IDENTITY = "identity.json"  # in the run's folder


def resume(
    out: Path,
    learner: Learner,
    reference: Reference | None,
    source: RolloutSource,
    config: CheckpointConfig,
    identity: dict[str, Any],
    accept_changes: bool = False,
) -> TrainState:
    """The state of the last good checkpoint in `out`, put back; a fresh one when there is none.

    Which one it is, the main process says: on a network drive another may not see it yet.

    Raises:
        UserError: none of the checkpoints is good, or what is there is of a run with another `identity`.
    """
    last = learner.world.main_finds(lambda: last_good(out / "checkpoints"))
    if last is None:
        learner.world.main_finds(lambda: begin_anew(out, identity))
        return TrainState(identity=identity)
    changed = learner.world.main_finds(lambda: changed_data(last, identity, accept_changes))
    state = load_checkpoint(last, learner, reference)
    # Where nothing is evaluated from here on, the points that are there are still of what they were.
    state.identity = identity | (evaluation_of(identity) or evaluation_of(state.identity))
    source.load_state(state.source, anew=changed)
    if source.unfinished and source.ahead is not None:
        load_behaviour(last, learner, source.ahead.behaviour)
    if learner.world.rank < len(state.rng):
        restore_rng(state.rng[learner.world.rank])
    if is_main():
        drop_completions(out, state.step)
        tidy(last, config)
        write_identity(out, identity)
    log.warning("going on from step %d (%s)", state.step, last)
    return state


def begin_anew(out: Path, identity: Mapping[str, Any]) -> None:
    """Where no checkpoint is: the same run again makes the same again; what an earlier one sampled goes.

    Raises:
        UserError: the model of another run is there, which would be replaced.
    """
    file, model = out / IDENTITY, out / "model"
    if model.is_dir():
        recorded = read_record(file, "give another output folder") if file.is_file() else None
        asked = without_evaluation(identity)  # of a model that is there, whatever was asked of it
        other = ["what made it was not kept"] if recorded is None else differences(recorded, asked).matter
        if other:
            raise UserError(
                f"'{out}' holds the finished model of another run ({shown(other)}), which this one would replace: give "
                "another output folder, or move that one away"
            )
    drop_completions(out, 0)
    write_identity(out, identity)


def write_identity(out: Path, identity: Mapping[str, Any]) -> None:
    """What the run in this folder follows from, for when it is finished and has no checkpoint."""
    with must_write(out / IDENTITY, len(str(identity))):
        write_record(out / IDENTITY, identity)


def changed_data(last: Path, identity: Mapping[str, Any], accept_changes: bool) -> list[str]:
    """The tasks whose prompts are not those of the checkpoint, if the user accepts that.

    Raises:
        UserError: the checkpoint was made with something else.
    """
    changes = differences(read_state(last).identity, identity)
    check_same(last, changes, accept_changes)
    return changes.data
