"""Calling one reward function safely: which arguments it takes, sync or async, and how long it may take.

The convention is TRL's (`GRPOTrainer._calculate_rewards`, TRL 1.16): everything goes in by keyword, `prompts`,
`completions`, `completion_ids`, the data columns, and `trainer_state`, `log_extra`, `log_metric`. TRL passes all of it
always; here a function without `**kwargs` gets only the names it declares, so `def f(completions)` works too.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import sysconfig
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from grpo.errors import UserError, describe

REWARD_TIMEOUT = 600.0  # seconds for one call of a reward function: a hang must not hold the run for ever
CORE = str(Path(__file__).parents[1])  # where this program's own frames of a traceback lie
STANDARD, INSTALLED = sysconfig.get_path("stdlib"), ("site-packages", "dist-packages")  # Python's, and packages
GRACE = 1.0  # seconds that a cancelled coroutine gets to end before its event loop is given up


class CallFailed(Exception):
    """A reward function raised, ran too long, or returned something that is not a list of the right length."""


class Hung(CallFailed):
    """A reward function ran too long."""


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether calling `fn` gives a coroutine (a function, a partial of one, or an object with an async call)."""
    target: Any = fn.func if isinstance(fn, functools.partial) else fn
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(type(target).__call__)


def select_arguments(
    name: str, fn: Callable[..., Any], standard: Mapping[str, Any], ours: Mapping[str, Any]
) -> dict[str, Any]:
    """The keyword arguments `fn` takes. `standard` is what TRL passes, `ours` goes only where it is named.

    Values bound by a partial (the `kwargs` of the config) win over a data column of the same name.

    Raises:
        UserError: a parameter without a default is neither an argument nor a column of the data.
    """
    bound = set(fn.keywords) if isinstance(fn, functools.partial) else set()
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # some builtins have no signature: TRL's way, everything
        return dict(standard)
    offered = {key: value for key, value in {**standard, **ours}.items() if key not in bound}
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    missing = [p.name for p in named if p.default is p.empty and p.name not in offered and p.name not in bound]
    if missing:
        raise UserError(
            f"reward '{name}' needs '{missing[0]}', which the data does not have (it has: "
            f"{', '.join(sorted(standard))}); rename a column with `columns: {{{missing[0]}: answer}}`, "
            "or, for grpo score, rename the column in the file"
        )
    chosen = {p.name: offered[p.name] for p in named if p.name in offered}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        chosen |= {key: value for key, value in standard.items() if key not in bound}
    return chosen


def call_sync(fn: Callable[..., Any], arguments: Mapping[str, Any], timeout: float | None) -> Any | CallFailed:
    """Call a sync function: its value, or why there is none. With a timeout it runs in a daemon thread and is abandoned
    when it hangs.

    Python cannot kill a thread: one that hangs stays behind, idle or busy, until the process ends.
    """
    outcome: Future[Any] = Future()

    def target() -> None:
        try:
            value = _listed(fn(**arguments))
        except BaseException as error:  # noqa: BLE001 - handed to the waiting thread, which judges it
            outcome.set_exception(error)
        else:
            outcome.set_result(value)

    if timeout is None:
        target()
    else:
        threading.Thread(target=target, name="grpo-reward", daemon=True).start()
    try:
        return _result(outcome, timeout, timeout)
    except BaseException as error:  # noqa: BLE001
        return _failure(error)


def call_async(
    calls: Sequence[tuple[Callable[..., Any], Mapping[str, Any]]], timeout: float | None
) -> list[Any | CallFailed]:
    """Call async functions concurrently on one long-lived event loop; each gives its value or a `CallFailed`.

    The loop outlives the call because HTTP clients keep their connections bound to it. It runs in its own thread, so
    this also works inside a notebook's or a server's running loop.
    """

    async def gather() -> list[Any]:
        async def one(fn: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
            return _listed(await asyncio.wait_for(fn(**arguments), timeout))

        tasks = [one(fn, arguments) for fn, arguments in calls]
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcome = _submit(gather())
    try:
        results = _result(outcome, None if timeout is None else timeout + GRACE, timeout)
    except CallFailed as error:  # a coroutine blocks the loop without ever awaiting: leave that loop behind
        _drop_loop()
        results = [error] * len(calls)
    return [_failure(result, timeout) if isinstance(result, BaseException) else result for result in results]


def _result(outcome: Future[Any], wait: float | None, limit: float | None) -> Any:
    try:
        return outcome.result(wait)
    except TimeoutError as error:
        if outcome.done():  # the function's own TimeoutError, not ours
            raise
        raise Hung(f"did not return within {limit:g} s") from error


def _failure(error: BaseException, timeout: float | None = None) -> CallFailed:
    """What ended a call: sys.exit() in a reward must not end the run, nor math-verify's BaseException. `timeout`: of a
    coroutine. What is meant for the user is raised."""
    if isinstance(error, (UserError, KeyboardInterrupt)):
        raise error
    if isinstance(error, CallFailed):
        return error
    if isinstance(error, TimeoutError) and timeout is not None:
        return Hung(f"did not return within {timeout:g} s")
    return CallFailed(describe(error) + place(error))


def _listed(value: Any) -> Any:
    """The values of a generator, while its errors are still those of the call."""
    return list(value) if isinstance(value, Iterator) else value


def place(error: BaseException) -> str:
    """ " (my_rewards.py:12)": the innermost line of the user's own code that an error came through; of a function that
    was installed, the innermost line of its file."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((CORE, "<frozen"))]
    installed = [f for f in frames if any(name in f.filename for name in INSTALLED)]
    own = [f for f in frames if f not in installed and not f.filename.startswith(STANDARD)]
    chosen = own or [f for f in installed if f.filename == installed[0].filename]
    if not chosen:
        return ""
    file = Path(chosen[-1].filename)
    shown = file.relative_to(os.getcwd()) if file.is_relative_to(os.getcwd()) else file
    return f" ({shown}:{chosen[-1].lineno})"


_lock = threading.Lock()
_loop: tuple[asyncio.AbstractEventLoop, threading.Thread] | None = None


def _submit(coroutine: Coroutine[Any, Any, list[Any]]) -> Future[list[Any]]:
    global _loop
    with _lock:
        if _loop is None or not _loop[1].is_alive():  # not alive: this is a forked child
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="grpo-reward-loop", daemon=True)
            thread.start()
            _loop = (loop, thread)
        return asyncio.run_coroutine_threadsafe(coroutine, _loop[0])


def _drop_loop() -> None:
    global _loop
    with _lock:
        _loop = None
