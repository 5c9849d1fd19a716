"""A circuit breaker: an endpoint that is down is left alone for a while."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from grpo.system.http import RequestFailed


@dataclass
class Breaker:
    """When an endpoint is down, requests fail at once instead of each waiting for its own timeout.

    Opens after `limit` failures in a row; after `cooldown` seconds one request may probe whether all is well.
    """

    limit: int
    cooldown: float
    clock: Callable[[], float] = time.monotonic
    failures: int = 0
    opened: float | None = None  # when
    probing: bool = False
    last_error: str = ""

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Around each request: counts how it ends.

        Raises:
            RequestFailed: it may not be sent.
        """
        probe = self.enter()
        try:
            yield
        except RequestFailed as failure:
            self.last_error = str(failure)
            if failure.down:
                self.failed(probe)
            else:
                self.succeeded()
            raise
        except BaseException:
            self.left(probe)
            raise
        self.succeeded()

    def enter(self) -> bool:
        """Whether this request is the probe. What enters ends in exactly one of `succeeded`, `failed` and `left`.

        Raises:
            RequestFailed: it may not be sent.
        """
        if self.opened is None:
            return False
        if self.probing or self.clock() - self.opened < self.cooldown:
            reason = f"not sent: the endpoint failed {self.failures} times in a row; last: {self.last_error}"
            raise RequestFailed(reason, again=False)
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
