"""The judge against an endpoint that fails in every way: bounded time, and never a silent 0."""

import asyncio
import json
import re
import threading
import time

import pytest

from grpo.errors import UserError
from grpo.scoring.groups import Exclusions, score
from grpo.scoring.table import apply_rewards
from grpo.types import Completion, Group, Rollout
from rewards.judge.reward import Judge
from support.chat import said, serving, status
from support.groups import prompt_of
from support.judge import FAST, PATIENCE, applied, fenced, first, honest, judge_at, judged, verdict
from support.servers import HANG, Reply, closed_port


@pytest.fixture(autouse=True)
def bounded():
    """Nothing here takes more than a busy machine needs."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < PATIENCE


@pytest.mark.parametrize("fault", [
    status(429), status(429, retry_after="0.05"), status(500), status(503, retry_after="nonsense"), status(408),
    Reply(502, b"<html>Bad gateway</html>", {"Content-Type": "text/html"}),
    Reply(200, b"<html>Welcome</html>", {"Content-Type": "text/html"}), Reply(200, b"\xff\xfe{garbage"),
    Reply(200, b"[1, 2"), Reply(200, b"{}"), Reply(200, b'{"choices": []}'),
    Reply(200, b'{"choices": [{"message": "text"}]}'), Reply(200, b""),
], ids=lambda fault: f"{fault.status}-{str(fault.body)[:20]}-{'after' if fault.headers else ''}")  # fmt: skip
def test_faults_are_retried_and_then_given_as_reason(fault):
    with serving(first(fault, times=2)) as server:
        assert judged(server, ["4"]) == ([1.0], {})
        assert server.count == 3
    with serving(lambda *_: fault) as server:
        values, errors = judged(server, ["4"])
        assert values == [None]  # never 0
        reason = f"HTTP {fault.status}" if fault.status != 200 else "the reply is no chat completion"
        assert errors[0].startswith(f"judge: {reason}")
        assert server.count == 3


@pytest.mark.parametrize("code", [400, 401, 403, 404, 422])
def test_what_another_attempt_cannot_mend_is_not_repeated(code):
    with serving(lambda *_: status(code, "wrong\nmodel")) as server:
        assert judged(server, ["4", "5"]) == ([None] * 2, dict.fromkeys([0, 1], f"judge: HTTP {code}: wrong model"))
        assert server.count == 2


@pytest.mark.parametrize("fault", [HANG, Reply(body=b'{"choices": ' + b" " * 999, drip=True)], ids=["hang", "drip"])
def test_timeouts(fault):
    """Also of a server that sends a byte now and then, which no read timeout notices."""
    with serving(first(fault)) as server:
        assert judged(server, ["4"], timeout=1.0, retries=20) == ([1.0], {})
        assert server.count >= 2  # on a busy machine the second one may be late as well
    with serving(lambda *_: fault) as server:
        assert judged(server, ["4"], timeout=0.3, retries=1) == ([None], {0: "judge: no reply within 0.3 s"})
        assert server.count <= 2  # a request may be given up before the server has read it


@pytest.mark.parametrize(("reply", "reason"), [
    ("The answer is right.", "no JSON object"),
    (json.dumps({"verdict": "correct"}), "id: Field required"),
    (json.dumps({"id": "000000000000", "analysis": "a", "verdict": "correct"}), "the id of the verdict is not that"),
    ("[" * 5000 + '{"a":' * 5000, "no JSON object"), (said(None), "no JSON object"),
    (said('{"id": "', "length"), r"cut at max_tokens=2048\), asked 3 times"),
], ids=["text", "bare", "other-id", "nested", "empty", "cut"])  # fmt: skip
def test_an_unreadable_verdict_is_asked_for_again(reply, reason):
    with serving(first(reply)) as server:
        assert judged(server, ["5"]) == ([0.0], {})
        assert server.count == 2
    with serving(lambda *_: reply) as server:
        values, errors = judged(server, ["4"])
        assert values == [None]
        assert server.count == 3
    assert re.search(reason, errors[0])


@pytest.mark.parametrize("values", ["rightly", "right", "", None, 1, True])
def test_wrong_verdict_values_are_not_guessed_at(values):
    with serving(lambda body, _: verdict(body, verdict=values)) as server:
        assert judged(server, ["4"])[0] == [None]


def test_a_dead_endpoint_ends_soon_and_opens_the_breaker():
    values, errors = judged(closed_port() + "/v1", ["4"] * 200, breaker_failures=10, concurrency=8)
    assert values == [None] * 200
    assert sum("not sent: the endpoint failed" in text for text in errors.values()) > 150
    assert errors[199].endswith("last: no connection: All connection attempts failed")


def test_an_open_breaker_keeps_requests_away_then_probes():
    clock = [0.0]
    healthy = threading.Event()

    def answer(body, number):
        return honest(body, number) if healthy.is_set() else status(500)

    with serving(answer) as server:
        reward = judge_at(server, breaker_failures=10, concurrency=4, retries=3)
        reward.fn._endpoint.breaker.clock = lambda: clock[0]
        values, errors = applied(reward, ["4"] * 100)
        assert values == [None] * 100
        assert set(errors) == set(range(100))
        opened = server.count
        assert 10 <= opened < 10 + 4  # those in flight when it opened still came
        assert applied(reward, ["4"] * 50)[0] == [None] * 50
        assert server.count == opened  # nothing at all while it cools down
        clock[0] = 31.0
        assert applied(reward, ["4"] * 50)[0] == [None] * 50
        assert server.count == opened + 1  # one probe, which failed
        clock[0] = 62.0
        healthy.set()
        values, _ = applied(reward, ["4"] * 20)
        assert server.count == opened + 1 + values.count(1.0)
        assert values[0] == 1.0  # the probe
        assert applied(reward, ["4"] * 20) == ([1.0] * 20, {})


def test_rate_limits_do_not_open_the_breaker():
    with serving(first(status(429), times=12)) as server:
        assert judged(server, ["4"] * 4, breaker_failures=3, retries=12) == ([1.0] * 4, {})


def test_retry_after_is_waited_for():
    with serving(first(status(429, retry_after="0.6"))) as server:
        started = time.monotonic()
        assert judged(server, ["4"]) == ([1.0], {})
        assert time.monotonic() - started >= 0.6


def slow(body, number):
    time.sleep(0.05)  # time for a request too many to show up; none is needed for the test to pass
    return honest(body, number)


def test_concurrency_is_bounded_and_used():
    gate = threading.Barrier(3, timeout=60)  # nobody goes on before three are there

    def answer(body, number):
        gate.wait()
        return slow(body, number)

    with serving(answer) as server:
        assert judged(server, ["4"] * 30, concurrency=3) == ([1.0] * 30, {})
        assert (server.count, server.most) == (30, 3)

    with serving(slow) as server:  # two calls of one judge at the same time share its limit
        judge = Judge(base_url=server.url, **FAST, concurrency=2)

        async def both():
            calls = [judge(["q"] * 10, ["4"] * 10, answer=["4"] * 10) for _ in range(2)]
            return await asyncio.gather(*calls)

        assert asyncio.run(both()) == [[1.0] * 10] * 2
        assert server.most <= 2
        assert asyncio.run(both()) == [[1.0] * 10] * 2  # and a closed event loop leaves nothing behind
        assert len(judge._endpoint._slots) == 1


def test_the_whole_call_is_bounded():
    def answer(body, number):
        return honest(body, number) if fenced(body, "answer") == "4" else HANG

    with serving(answer) as server:
        reward = judge_at(server, max_seconds=3.0)
        applied(reward, ["4"])  # what is slow on first use is not part of the three seconds
        values, errors = applied(reward, ["4", "slow"] * 4)
        assert values == [1.0, None] * 4  # what came in time stays
        assert errors == dict.fromkeys([1, 3, 5, 7], "judge: no verdict within 3 s")


def test_a_dead_endpoint_stops_training_in_bounded_time():
    reward = judge_at(closed_port() + "/v1", breaker_failures=4)
    rollouts = tuple(Rollout(Completion((9,), (0.0,), "stop", "4"), {}, None) for _ in range(40))
    groups = [Group(prompt_of([9]), rollouts)]
    exclusions = Exclusions()
    exclusions.draw(groups)
    assert exclusions.limit("default") == 4
    with pytest.raises(UserError, match="reward 'judge' failed on 5 completions, where 4 may; the last error: judge: "):
        score(groups, [reward], columns=["answer"], max_failed=4, timeout=600)
    scored, stats = score(groups, [reward], columns=["answer"], timeout=600)
    assert stats.excluded == 40
    exclusions.judge(scored)
    exclusions.reasons["default"] = stats.reason
    with pytest.raises(UserError, match="no reward from 'judge' on 40 of 40 completions"):
        exclusions.check(lambda value: [value])


def test_a_row_that_cannot_be_read_leaves_the_others_alone():
    prompts = ["2+2?", [{"role": "user"}, {"role": "user"}], "2+2?"]
    with serving(honest) as server:
        table = apply_rewards([judge_at(server)], prompts, ["4"] * 3, [[]] * 3, {"answer": ["4"] * 3})
    assert table.values["judge"] == [1.0, None, 1.0]
    assert list(table.errors) == [(1, "judge")]
    assert table.errors[1, "judge"].startswith("KeyError: 'content' (")
