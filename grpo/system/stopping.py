"""SIGINT, SIGTERM and SIGHUP: a run stops where nothing is lost, within a set time, and says how to go on.

The first signal raises `Stopped` in the main thread, at once where work can be dropped, and inside `later` at the next
`check`. The second one, or the end of the grace time, ends the process there and then: what is on the disk is whole at
every moment. Torch's and the scheduler's own SIGKILL usually follows 30 seconds after SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from grpo.system.world import World, is_main, launched

GRACE = 25.0  # seconds
ECHO = 1.0  # seconds: Ctrl-C reaches a process from the terminal and once more from the launcher it passes through
DEFAULTS: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
HANGUP = getattr(signal, "SIGHUP", None)  # of a terminal that is closed; nohup has it ignored, and so it stays
if HANGUP is not None:
    DEFAULTS[HANGUP] = signal.SIG_DFL


class Stopped(KeyboardInterrupt):
    """The user or the scheduler asked the run to stop. What may catch a KeyboardInterrupt may catch this."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number


@dataclass
class _State:
    """Of this process."""

    installed: bool = False
    ends: bool = False  # a second signal ends the process; otherwise, as in a notebook, it raises at once
    held: bool = False  # a first signal is only remembered
    asked: int | None = None
    at: float = 0.0
    grace: float = GRACE
    timer: threading.Timer | None = None


_state = _State()


@contextmanager
def handled(*, ends: bool = False) -> Iterator[None]:
    """Take the signals that have their default handler, while the block runs; the outermost block decides.

    `ends`: for a command line, see the top of this file. Without it SIGINT is a KeyboardInterrupt as everywhere in
    Python, and SIGTERM exits with 143; several processes ask each other once more at the end of the block, and a signal
    that comes after that is as one after the block.
    """
    global _state
    if _state.installed or threading.current_thread() is not threading.main_thread():
        yield
        return
    _state = _State(installed=True, ends=ends)
    ours = [number for number, default in DEFAULTS.items() if signal.getsignal(number) == default]
    for number in ours:
        signal.signal(number, _on_signal)
    try:
        yield
        if not ends:  # a command has asked all of its processes
            _state.held = True
            check(World.current())
    except Stopped as stopped:
        if ends or stopped.signal == signal.SIGINT:
            raise
        raise SystemExit(128 + stopped.signal) from stopped
    finally:
        for number in ours:
            signal.signal(number, DEFAULTS[number])
        if _state.timer is not None:
            _state.timer.cancel()
        late, _state = _state.asked, _State()
    if late is not None and not ends:
        signal.raise_signal(late)


def set_grace(seconds: float) -> None:
    """How long after a signal the process may go on."""
    _state.grace = seconds


@contextmanager
def later() -> Iterator[None]:
    """Signals wait while the block runs: `check` heeds them, or its end."""
    before, _state.held = _state.held, True
    try:
        yield
    finally:
        _state.held = before
    hold(before)


@contextmanager
def between(before: Callable[[], None], after: Callable[[], None]) -> Iterator[None]:
    """`before` and `after` the block, which run whole: signals wait for them, and in the block are heeded as ever."""
    held = _state.held
    with later():
        before()
        try:
            try:
                hold(held)
                yield
            finally:
                _state.held = True
        finally:
            after()


def hold(held: bool) -> None:
    """As the beginning of `later`, or as its end."""
    _state.held = held
    if not held:
        check()


def check(world: World | None = None) -> None:
    """Stop here if that was asked, of any process of the `world`: they stop together.

    Raises:
        Stopped: it was.
    """
    asked = [_state.asked] if world is None else world.gather(_state.asked)
    first = next((number for number in asked if number is not None), None)
    if first is not None:
        raise Stopped(first)


def asked() -> bool:
    """Whether a signal came to this process."""
    return _state.asked is not None


def _let_go_of_the_terminal() -> None:
    """It was closed: to write to it is an error from now on, which would end the run before it has saved."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(nowhere, stream)
    os.close(nowhere)


def _on_signal(number: int, frame: Any) -> None:
    if number == HANGUP:
        _let_go_of_the_terminal()
    if _state.asked is not None:
        # The shell sends SIGHUP as well as the terminal: that is no impatience.
        if number == HANGUP or (launched() and time.monotonic() - _state.at < ECHO):
            return
        if _state.ends:
            os._exit(128 + number)
        raise Stopped(number)
    _state.asked, _state.at = number, time.monotonic()
    if _state.ends:
        _state.timer = threading.Timer(_state.grace, os._exit, (128 + number,))
        _state.timer.daemon = True
        _state.timer.start()
    if not _state.held:
        raise Stopped(number)
    if is_main():
        limit = f" within {_state.grace:g} s" if _state.ends else ""
        said = f"{signal.Signals(number).name}: finishing the step and saving{limit}; once more ends the run at once\n"
        with contextlib.suppress(OSError):  # not print: it may have been interrupted itself
            os.write(2, said.encode())
