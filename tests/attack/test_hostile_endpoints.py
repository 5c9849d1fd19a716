"""Servers that send bombs, never end, or lead elsewhere: bytes and seconds are bounded, and the reason is one line."""

import gzip
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from grpo.config.engine import EngineConfig
from grpo.engines.vllm.servers import GENERATE, ServerEngine
from grpo.engines.vllm.start import ServedModel
from grpo.errors import UserError
from grpo.types import Prompt, Sampling
from stages.served.config import EndpointConfig
from stages.served.endpoint import serve
from support.groups import random_prompts
from support.judge import honest, judged
from support.models import EOS, make_tokenizer, policy_of
from support.servers import Reply, Server, listening
from support.vllm_fake import FakeVllm

MIB = 2**20
SAMPLED = ServedModel("m", make_tokenizer(), (EOS,), 64, "cpu", "float32")
PROMPTS = random_prompts(2)


class Endless:
    """A body that goes on as long as it is read."""

    def __len__(self) -> int:
        return 2**40

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield b" " * MIB


def asked(reply: Reply, **options: Any) -> tuple[Any, str, Server, float, float]:
    """(value, reason, server, seconds, MiB that the memory has grown by) of one row."""
    before, start = psutil.Process().memory_info().rss, time.monotonic()
    with listening(lambda path, body, number: reply) as server:
        values, errors = judged(server, ["it is 4"], **options)
    return values[0], errors[0], server, time.monotonic() - start, (psutil.Process().memory_info().rss - before) / MIB


@pytest.mark.parametrize("packing", ["gzip", "deflate", "br", "zstd"])
def test_a_packed_reply_is_not_unpacked(packing):
    """1 GB of nothing in 1 MB: it took 1.2 GB of memory and a minute for one row."""
    bomb = gzip.compress(b" " * (64 * MIB))
    value, reason, server, seconds, grown = asked(Reply(body=bomb, headers={"Content-Encoding": packing}))
    assert (value, reason) == (None, f"judge: the reply is packed ({packing}), which was not asked for")
    assert server.count == 1
    assert server.headers[0]["accept-encoding"] == "identity"
    assert seconds < 10
    assert grown < 32


@pytest.mark.parametrize("status", [200, 500, 400])
def test_a_huge_reply_is_not_read_to_its_end(status):
    value, reason, server, seconds, _ = asked(Reply(status=status, body=b" " * (200 * MIB)))
    assert (value, reason) == (None, "judge: the reply is larger than 16 MiB")
    assert server.count == 1
    assert seconds < 20


def endless(handler: Any, reply: Reply) -> None:
    handler.send_response(200)
    handler.end_headers()
    for part in Endless():
        handler.wfile.write(part)


def test_an_endless_reply_ends():
    start = time.monotonic()
    with listening(honest) as server:  # type: ignore[arg-type]
        server.send = endless  # type: ignore[method-assign]
        server.answer = lambda *_: Reply()
        values, errors = judged(server, ["it is 4"])
    assert (values, errors) == ([None], {0: "judge: the reply is larger than 16 MiB"})
    assert time.monotonic() - start < 20


def elsewhere(other: Server, status: int) -> Reply:
    return Reply(status=status, headers={"Location": f"{other.url}/v1/chat/completions"})


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_another_host_is_refused(status, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    with listening(lambda path, body, number: Reply(body=b"{}")) as other:
        value, reason, _, _, _ = asked(elsewhere(other, status), key_env="JUDGE_KEY")
        assert value is None
        assert reason == f"judge: it redirects to {other.url}: give that address if you trust it"
        assert other.count == 0


def test_the_evaluations_endpoint_is_bounded_too(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    bomb = Reply(body=gzip.compress(b" " * (64 * MIB)), headers={"Content-Encoding": "gzip"})
    with listening(lambda *_: Reply(body=b"{}")) as other:
        for reply, reason in ((bomb, "is packed"), (elsewhere(other, 307), "it redirects to")):
            with listening(lambda path, body, number, reply=reply: reply) as server:
                config = EndpointConfig(model="m", base_url=server.url, retries=3)
                prompt = Prompt("0", (), messages=[{"role": "user", "content": "2+2?"}])
                with pytest.raises(UserError, match=reason):
                    serve(config, [prompt], Sampling(1, 8), 0)
                assert server.count == 1
        assert other.count == 0


@pytest.mark.parametrize("path", ["/health", "/server_info", GENERATE, "/weight_info", "/pause"])
@pytest.mark.parametrize("how", ["huge", "endless", "packed", "elsewhere"])
def test_a_vllm_servers_replies_are_bounded(tmp_path, monkeypatch, path, how):
    """Each request has a bound that follows from what it asks for; a redirect is not followed."""
    monkeypatch.setattr("grpo.engines.vllm.client.FIRST_DELAY", 0.01)
    said = {
        "huge": (Reply(body=b" " * (64 * MIB)), "the reply is larger than 16 MiB"),
        "endless": (Reply(), "the reply is larger than 16 MiB"),
        "packed": (Reply(body=gzip.compress(b" " * MIB), headers={"Content-Encoding": "gzip"}), "the reply is packed"),
        "elsewhere": (Reply(status=307, headers={"Location": "http://127.0.0.1:9/"}), "HTTP 307"),
    }
    bad, why = said[how]
    fake, policy = FakeVllm(tmp_path), policy_of()
    with listening(lambda *request: fake.handle(*request)) as server:
        send, on = server.send, [False]

        def answer(handler: Any, reply: Reply) -> None:
            attacked = on[0] and handler.path.startswith(path)
            (endless if attacked and how == "endless" else send)(handler, bad if attacked else reply)

        server.send = answer  # type: ignore[method-assign]
        tree = {"urls": [server.url], "folder": str(tmp_path), "start_timeout": 0.01}
        config = EngineConfig.model_validate({"kind": "vllm-server", "server": tree})

        def go() -> None:
            on[0] = path in ("/health", "/server_info")
            engine = ServerEngine(config, SAMPLED)
            engine.sync(policy)
            on[0] = True
            engine.generate(PROMPTS, Sampling(2, 4), seed=0, step=0)
            engine.sync(policy)

        start, before = time.monotonic(), psutil.Process().memory_info().rss
        with pytest.raises(UserError, match=why) as caught:
            go()
        assert "\n" not in str(caught.value)
        assert server.url in str(caught.value)
        assert time.monotonic() - start < 20
        assert psutil.Process().memory_info().rss - before < 200 * MIB
