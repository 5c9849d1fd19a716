"""A circuit breaker: when an endpoint is down, requests fail at once instead of each waiting for its own timeout."""

from __future__ import annotations

import time
from collections.abc import Callable


class BreakerOpen(Exception):
    """The endpoint is taken to be down: nothing was sent."""


class Breaker:
    """Opens after `limit` failures in a row; after `cooldown` seconds one request may probe whether all is well.

    Every request that `enter` lets through ends in exactly one of `succeeded`, `failed` and `left` (cancelled).
    """

    def __init__(self, limit: int, cooldown: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit, self.cooldown, self.clock = limit, cooldown, clock
        self.failures = 0
        self.opened: float | None = None  # when
        self.probing = False

    def enter(self) -> bool:
        """Whether this request is the probe.

        Raises:
            BreakerOpen: it may not be sent.
        """
        if self.opened is None:
            return False
        if self.probing or self.clock() - self.opened < self.cooldown:
            raise BreakerOpen
        self.probing = True
        return True

    def succeeded(self) -> None:
        """Whichever request it was: the endpoint works."""
        self.failures, self.opened, self.probing = 0, None, False

    def failed(self, probe: bool) -> None:
        """A request sent before the breaker opened changes nothing any more."""
        self.failures += 1
        if probe or (self.opened is None and self.failures >= self.limit):
            self.opened = self.clock()
        self.left(probe)

    def left(self, probe: bool) -> None:
        """A cancelled probe has shown nothing: the next request may try."""
        if probe:
            self.probing = False
