"""When to ask an endpoint again, and after how long."""

from __future__ import annotations

import math
import random
import time
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

MAX_WAIT = 60.0  # seconds: no backoff and no Retry-After is longer
_random = random.Random()  # not the program's, which a seeded run goes by: another thread may wait here
PASSING = (408, 409, 429)  # and 5xx


def may_pass(status: int) -> bool:
    """Whether the same request may succeed later, after this HTTP status."""
    return status in PASSING or status >= 500


def pause(attempt: int, first: float, wait: float | None) -> float:
    """Seconds to wait after attempt 0, 1, ...

    Args:
        attempt: how many came before it.
        first: seconds after attempt 0; doubled each time up to `MAX_WAIT`, times a random 0.5 to 1.
        wait: what the server asked for instead, kept and not cut short; a random part of `first` comes on top.
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


FIRST_DELAY = 0.5  # seconds before the second attempt


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
