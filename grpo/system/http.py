"""How an HTTP endpoint is asked: what may pass is tried again, ever later.

The clients' own retries are off: they draw their delays from the program's random numbers, which a seeded run goes by,
and know nothing of broken streams.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import urlsplit

ResultT = TypeVar("ResultT")

FIRST_DELAY = 0.5  # seconds before the second attempt
MAX_WAIT = 60.0  # seconds: no backoff and no Retry-After is longer
PASSING = (408, 409, 429)  # and 5xx: the same request may succeed later
_random = random.Random()  # not the program's: another thread may wait here


class RequestFailed(Exception):
    """A request without a proper answer; the text says why and never holds a key.

    `again`: another attempt may help. `status`: of HTTP; None: there was no answer. `wait`: seconds that the server
    asks for.
    """

    def __init__(self, why: str, *, again: bool = True, status: int | None = None, wait: float | None = None) -> None:
        super().__init__(why)
        self.again, self.status, self.wait = again, status, wait

    @property
    def down(self) -> bool:
        """The endpoint did not work at all."""
        return self.again and (self.status is None or self.status >= 500)


def bad_status(status: int, text: str, wait: str | None = None) -> RequestFailed:
    """The failure behind an HTTP status; `wait`: the header Retry-After."""
    return RequestFailed(text, again=status in PASSING or status >= 500, status=status, wait=retry_after(wait))


async def patiently(
    attempt: Callable[[], Awaitable[ResultT]],
    retries: int,
    first_delay: float,
    timeout: float,
    *,
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
    noun: str = "answer",
    after_hang: bool = True,
) -> ResultT:
    """What `attempt` gives, which is called `retries` times more while it fails and another may help.

    Args:
        timeout: seconds for one. The clients' own limits are for each read: they bound no drip.
        around: what each attempt is made in; it sees how that ends, and may refuse it.
        noun: of what does not come in time, in the message.
        after_hang: whether another may help then.

    Raises:
        RequestFailed: the last one failed, or one that another would not help.
    """
    for number in range(retries + 1):
        try:
            with around():
                try:
                    async with asyncio.timeout(timeout):
                        return await attempt()
                except TimeoutError:
                    raise RequestFailed(f"no {noun} within {timeout:g} s", again=after_hang) from None
        except RequestFailed as failure:
            if not failure.again or number == retries:
                raise
            await asyncio.sleep(pause(number, first_delay, failure.wait))
    raise AssertionError("the last attempt returns or raises")


def pause(attempt: int, first: float, wait: float | None) -> float:
    """Seconds to wait after attempt 0, 1, ...: `first`, doubled each time up to `MAX_WAIT`, times a random 0.5 to 1.

    `wait` is what the server asked for instead; it is not cut short, and a random part of `first` comes on top.
    """
    if wait is not None:
        return min(MAX_WAIT, wait) + first * _random.random()
    return min(MAX_WAIT, first * 2.0 ** min(attempt, 20)) * _random.uniform(0.5, 1.0)


def retry_after(header: str | None) -> float | None:
    """Seconds of a Retry-After header, a number or an HTTP date (RFC 9110, 10.2.3); None when there is no such."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def is_address(text: str) -> bool:
    """Whether this is an http(s) address."""
    try:
        url = urlsplit(text)
        valid = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False
    return valid and not any(map(str.isspace, text))


def holds_secret(address: str) -> bool:
    """Whether an address holds what may be a key: it would be shown in messages."""
    url = urlsplit(address)
    return url.username is not None or url.password is not None or bool(url.query or url.fragment)
