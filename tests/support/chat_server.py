"""A chat-completions endpoint on this machine that streams, stumbles, or hangs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from grpo.evaluation import endpoint
from support.servers import HttpServer, begin, body_of, reply

KEY = "sk-a-secret-of-mine"


class Server(HttpServer):
    """Answers with `answer(request, number of this request)`: a status and JSON, or the chunks of a stream."""

    def __init__(self, answer: Callable[[dict[str, Any], int], Any]) -> None:
        super().__init__()
        self.answer = answer
        self.url = f"{self.address}/v1"
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = body_of(request)
        with self.lock:
            number = len(self.requests)
            self.requests.append(body)
            self.keys.append(request.headers["Authorization"])
        answer = self.answer(body, number)
        if isinstance(answer, tuple):
            status, headers, value = answer
            reply(request, status, value, **headers)
            return
        begin(request, 200, None, **{"Content-Type": "text/event-stream"})
        for chunk in answer:
            if chunk is HANG:
                self.hang(request)
                return
            request.wfile.write(f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n".encode())
            request.wfile.flush()


HANG = object()


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}


def stream(*texts: str, finish: str = "stop", usage: tuple[int, int] | None = (10, 5)) -> list[Any]:
    chunks: list[Any] = [chunk(role="assistant", content=""), *(chunk(content=text) for text in texts), chunk(finish)]
    if usage is not None:
        counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
        chunks.append({**chunk(), "choices": [], "usage": counts})
    return [*chunks, "[DONE]"]


def right(request: dict[str, Any], _: int = 0) -> list[Any]:
    n = int(request["messages"][-1]["content"].split()[2])
    return stream("It is ", f"\\boxed{{{n + 1}}}")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr(endpoint, "FIRST_DELAY", 0.001)
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(Server(answer))
