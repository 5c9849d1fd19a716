"""Patience with HTTP: the breaker, the pauses, what a server asks for."""

import random
import time
from email.utils import formatdate

import pytest

from grpo.system.http import MAX_WAIT, RequestFailed, pause, retry_after
from rewards.judge.breaker import Breaker


def test_breaker():
    now = [0.0]
    breaker = Breaker(2, 10.0, lambda: now[0])
    early = breaker.enter()
    for _ in range(2):
        breaker.failed(breaker.enter())
    with pytest.raises(RequestFailed, match="not sent"):
        breaker.enter()
    now[0] = 9.0
    breaker.failed(early)  # sent before it opened: does not lengthen the cool-down
    now[0] = 10.0
    assert breaker.enter() is True
    breaker.failed(early)  # nor does it end the probe
    with pytest.raises(RequestFailed, match="not sent"):
        breaker.enter()
    breaker.left(True)  # cancelled: the next one may
    assert breaker.enter() is True
    breaker.failed(True)
    now[0] = 19.0
    with pytest.raises(RequestFailed, match="not sent"):
        breaker.enter()
    now[0] = 20.0
    assert breaker.enter() is True
    breaker.succeeded()
    assert breaker.enter() is False
    breaker.failed(False)
    assert breaker.enter() is False  # counts from the beginning


def test_delays_double_with_jitter_and_heed_the_server():
    for attempt, longest in ((0, 1.0), (1, 2.0), (4, 16.0), (9, MAX_WAIT), (5000, MAX_WAIT)):
        delays = [pause(attempt, 1.0, None) for _ in range(200)]
        assert longest / 2 <= min(delays) < max(delays) <= longest
        assert max(delays) - min(delays) > longest / 4
    assert all(7.0 <= pause(0, 1.0, 7.0) <= 8.0 for _ in range(50))
    assert pause(0, 1.0, 1e9) <= MAX_WAIT + 1.0
    before = random.getstate()  # a seeded run goes by it
    pause(0, 1.0, None)
    pause(0, 1.0, 1.0)
    assert random.getstate() == before
    assert (
        retry_after(None) is retry_after("soon") is retry_after("nan") is retry_after("inf") is retry_after("²") is None
    )
    assert (retry_after("2.5"), retry_after("-3")) == (2.5, 0.0)
    assert 25 < retry_after(formatdate(time.time() + 30, usegmt=True)) <= 30
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
