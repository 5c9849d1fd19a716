"""A chat-completions endpoint on this machine that streams, stumbles, or hangs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from grpo.evaluation import endpoint

KEY = "sk-a-secret-of-mine"


class Server:
    """Answers with `reply(request, number of this request)`: a status and JSON, or the chunks of a stream."""

    def __init__(self, reply: Callable[[dict[str, Any], int], Any]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.gone = threading.Event()  # what hangs is let go
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append(body)
                    outer.keys.append(self.headers["Authorization"])
                    number = len(outer.requests) - 1
                answer = reply(body, number)
                if isinstance(answer, tuple):
                    status, headers, value = answer
                    self.send_response(status)
                    for name, text in headers.items():
                        self.send_header(name, text)
                    self.end_headers()
                    self.wfile.write(json.dumps(value).encode())
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for chunk in answer:
                    if chunk is HANG:
                        outer.gone.wait(30)
                        return
                    self.wfile.write(f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n".encode())
                    self.wfile.flush()

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.gone.set()
        self.http.shutdown()
        self.http.server_close()


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
    servers: list[Server] = []

    def start(reply: Callable[[dict[str, Any], int], Any]) -> Server:
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for one in servers:
        one.close()
