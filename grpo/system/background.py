"""Work in a thread beside what goes on."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

ResultT = TypeVar("ResultT")


def in_background(work: Callable[[], ResultT]) -> Future[ResultT]:
    """Its result, or what it raised. A thread of its own, and a daemon: a run that stops does not wait for it."""
    outcome: Future[ResultT] = Future()

    def target() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            outcome.set_exception(error)

    threading.Thread(target=target, name="grpo-background", daemon=True).start()
    return outcome
