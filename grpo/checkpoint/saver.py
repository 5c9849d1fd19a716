"""When an RL run saves and where it may stop: at the boundary between two rollouts."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpo.checkpoint.pack import capture_rng
from grpo.checkpoint.store import save_checkpoint
from grpo.config.training import HELD_OUT, CheckpointConfig
from grpo.learner.learner import Learner
from grpo.model.reference import Reference
from grpo.monitoring.metrics import read_rows
from grpo.rollout.source import RolloutSource, SourceState
from grpo.system import stopping
from grpo.system.files import flush, must_write
from grpo.system.numbers import mean
from grpo.system.world import is_main
from grpo.types import TrainState


@dataclass
class Saver:
    """Checkpoints when they are due, and when a signal stops the run, also where none were asked for.

    A rollout that is stopped before its first update is dropped; from then on its updates are finished first.
    """

    out: Path
    state: TrainState
    learner: Learner
    reference: Reference | None
    source: RolloutSource
    config: CheckpointConfig
    _source: SourceState | None = None  # as it was at the last boundary
    _rng: dict[str, Any] = field(default_factory=dict)  # likewise
    _saved: int = 0  # the step that is on the disk, or needs not be
    _inside: bool = False  # updates have been made since the last boundary

    def __post_init__(self) -> None:
        self._saved = self.state.step

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """While the block runs a signal saves what is not saved and raises `stopping.Stopped`."""
        stopping.hold(True)
        try:
            yield
        except stopping.Stopped:
            self._stop()
            raise
        except Exception:
            if stopping.asked() and self.learner.world.size == 1:
                # Ctrl-C goes to the children as well: an engine that is gone for that is no failure of its own.
                self._stop()
                stopping.check()
            raise
        # The model is there. Of several processes the next check of all of them answers: none leaves the others alone.
        stopping.hold(self.learner.world.size > 1)

    def keep(self) -> None:
        """A checkpoint of the end, when the model could not be written: the same command has only that left to do."""
        if self.state.step > self._saved:
            self._save()

    def _stop(self) -> None:
        stopping.hold(True)
        if not self._inside and self.state.step > self._saved:
            self._save()

    def reached(self) -> None:
        """Between two rollouts: remember what a stop would save."""
        stopping.hold(True)
        self._source, self._rng, self._inside = self.source.state(), capture_rng(), False

    def boundary(self, held_out: float | None = None) -> None:
        """Save if it is time, stop if that was asked. `held_out`: pass@1 of the policy, where it was just evaluated."""
        stopping.hold(True)
        due = self.config.every and self.state.step - self.state.saved_step >= self.config.every
        best = self.config.best == HELD_OUT and held_out is not None and self.state.step > 0
        if due:
            self.state.saved_step = self.state.step
        if due or best:
            self._save(held_out if self.config.best == HELD_OUT else self._ranking())
        self.ready()

    def ready(self) -> None:
        """Stop if that was asked; what follows is dropped when a signal stops the run."""
        stopping.check(self.learner.world)
        # Several processes wait for each other in every phase: none may leave alone.
        stopping.hold(self.learner.world.size > 1)

    def updates(self) -> None:
        """The updates of the rollout begin: they are finished before the run stops."""
        stopping.hold(True)
        stopping.check(self.learner.world)
        self._inside = True

    def finished(self) -> None:
        """The model is on the disk: what a signal saved in a run without checkpoints is of no more use."""
        stopping.check(self.learner.world)
        if self.config.every is None and not self.state.saved_step and is_main():
            shutil.rmtree(self.out / "checkpoints", ignore_errors=True)

    def _ranking(self) -> float | None:
        """The mean of `checkpoint.best` over the steps of one interval; None: not asked for, or no row has it.

        Not over those since the last checkpoint: a signal may have saved one in between.
        """
        if self.config.best is None or not self.config.every or not is_main():
            return None
        after = self.state.step - self.config.every
        rows = (row for _, row in read_rows(self.out / "metrics.jsonl") if row["step"] > after)
        return mean(row.get(self.config.best) for row in rows)

    def _save(self, score: float | None = None) -> None:
        """The checkpoint of the last boundary."""
        assert self._source is not None
        self.state.score = score
        self.state.source = self._source.pack()
        self.state.rng = self.learner.world.gather(self._rng)
        if is_main():
            with must_write(self.out / "metrics.jsonl", 0):
                flush(self.out / "metrics.jsonl")  # rows of steps that will not be done again
        folder, ahead = self.out / "checkpoints", self.source.ahead
        behaviour = ahead.behaviour if ahead is not None and self._source.unfinished else None
        if save_checkpoint(folder, self.config, self.state, self.learner, self.reference, behaviour) is not None:
            self._saved = self.state.step
