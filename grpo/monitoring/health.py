"""Steps that are not finite: how they are counted, what is said, what is kept to look at."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from grpo.data.rows import write_jsonl
from grpo.errors import UserError
from grpo.learner.batching import TrainRow
from grpo.system.world import is_main
from grpo.types import TrainState

log = logging.getLogger("grpo")

NONFINITE_LIMIT = 20  # in a row: float16's scale comes down from 65536 in fewer
EXPECTED = 16  # in a row, of a float16 run, that say nothing about its data: 65536 is 2**16
DUMPS = 5  # a batch may be megabytes


def count_nonfinite(state: TrainState, grad_norm: float | None) -> None:
    """Count the step, which is not applied, if its loss or gradient is not finite (`update` gives a norm that is not
    finite for either; None: nothing to train, which says nothing)."""
    if grad_norm is not None:
        finite = math.isfinite(grad_norm)
        state.nonfinite += not finite
        state.nonfinite_run = 0 if finite else state.nonfinite_run + 1


def report_nonfinite(
    out: Path, state: TrainState, grad_norm: float | None, rows: Sequence[TrainRow], scaled: bool
) -> None:
    """Say that the step just counted was not finite, and keep its batch; a run that has nothing else is over.

    `scaled`: the loss is (float16), so that the first of them are no wonder.

    Raises:
        UserError: too many of them one after the other.
    """
    if grad_norm is None or math.isfinite(grad_norm):
        return
    file = None if scaled and state.nonfinite_run <= EXPECTED else dump(out / "nonfinite", state.step, rows)
    kept = f"; its batch is in '{file}'" if file else ""
    log.warning("step %d: the loss or gradient is not finite; the step was not applied%s", state.step, kept)
    if state.nonfinite_run >= NONFINITE_LIMIT:
        raise UserError(
            f"step {state.step}: the gradient was not finite {NONFINITE_LIMIT} times in a row: lower optimizer.lr, "
            f"bound the loss (loss.dual_clip) or train in float32 (runtime.dtype); the batches are in "
            f"'{out / 'nonfinite'}'"
        )


def dump(folder: Path, step: int, rows: Sequence[TrainRow]) -> Path | None:
    """One line a sequence that was trained: its ids, log-probs by engine, pi_old and pi_ref, rewards and advantage.
    None: there are enough, another process writes it, or the disk does not take it."""
    if not is_main() or len(list(folder.glob("step-*.jsonl"))) >= DUMPS:
        return None
    file = folder / f"step-{step:06d}.jsonl"
    try:
        write_jsonl(file, [{"prompt_ids": row.prompt_ids, **asdict(row.rollout)} for row in rows])
    except OSError as error:  # what it is about is said all the same
        log.warning("cannot write '%s': %s", file, error.strerror)
        return None
    return file


def warn_of_no_training(state: TrainState) -> None:
    """At the end of a run of which no step changed the weights."""
    if state.skipped < state.step or not state.step:
        return
    why = "every prompt's completions were judged alike, or excluded (frac_zero_variance, excluded_fraction)"
    if state.nonfinite == state.skipped:
        why = "no gradient was finite"
    log.warning(
        "nothing was trained: none of %d steps changed the weights, since %s; model/ is the one it began with",
        state.step,
        why,
    )
