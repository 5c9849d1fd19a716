"""One line that says how far a long piece of work is: rich with an ETA on a terminal, nearly silent elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from grpo.errors import public
from grpo.system.console import SafeConsole, say
from grpo.system.world import is_main

QUIET_SECONDS = 30.0  # between two plain lines when nobody watches
BESIDE = 72  # columns that label, counts, time and note want beside the bar


class Bar:
    """What `progress` hands out. Of the main process at most one line every `QUIET_SECONDS`, and one at the end."""

    def __init__(self, label: str, total: int, done: int) -> None:
        self._label, self._total, self._start, self._done = label, total, done, done
        self._began = self._spoke = time.monotonic()
        self._note = ""

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._done += amount
        self._note = note or self._note
        now = time.monotonic()
        if now - self._spoke >= QUIET_SECONDS and self._done < self._total:
            self._spoke = now
            remaining = (now - self._began) * (self._total - self._done) / max(1, self._done - self._start)
            self._say(f"about {_clock(remaining)} left")

    def finish(self) -> None:
        self._say(f"took {_clock(time.monotonic() - self._began)}")

    def _say(self, timing: str) -> None:
        parts = [f"{self._label}: {self._done}/{self._total}", timing, self._note]
        if is_main():
            line = Text(public(", ".join(part for part in parts if part)))
            line.truncate(SafeConsole().width, overflow="ellipsis")
            say(line.plain)


class _TerminalBar(Bar):
    def __init__(self, display: Progress, task: TaskID) -> None:
        self._display, self._task = display, task

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._display.update(self._task, advance=amount, note=note)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Bar]:
    """Show work of `total` units of which `done` are finished already.

    >>> with progress("reasoning RL", total=30) as bar:
    ...     bar.advance(1, "reward 0.52")
    """
    if not is_main() or not sys.stdout.isatty():
        bar = Bar(label, total, done)
        yield bar
        bar.finish()  # not after an exception: the work did not finish
        return
    console = SafeConsole(file=sys.stdout)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=min(24, max(4, console.width - BESIDE))),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console) as display:
        yield _TerminalBar(display, display.add_task(label, total=total, completed=done, note=""))
