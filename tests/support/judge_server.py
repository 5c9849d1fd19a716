"""A chat-completions endpoint on this machine that fails as told, and counts what reaches it."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """A response instead of a verdict. `hang`: none at all until the server ends; `drip`: bytes, one by one, slowly."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    drip: bool = False


def said(text: str | None, finish: str = "stop") -> Fault:
    """A proper chat completion with this text."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return Fault(body=json.dumps(reply).encode())


def status(code: int, message: str = "as told", **headers: str) -> Fault:
    body = json.dumps({"error": {"message": message, "type": "test"}}).encode()
    return Fault(code, body, {name.replace("_", "-"): value for name, value in headers.items()})


def request_id(body: Body) -> str:
    """The id that the verdict has to carry."""
    found = re.search(r"whose id is ([0-9a-f]{12})\.$", body["messages"][-1]["content"])
    assert found is not None
    return found[1]


def fenced(body: Body, name: str) -> str:
    """What stands between the tags of this name."""
    token = request_id(body)
    text = body["messages"][-1]["content"]
    return text.partition(f"<{name}-{token}>\n")[2].partition(f"\n</{name}-{token}>")[0]


def verdict(body: Body, **keys: Any) -> str:
    return json.dumps({"id": request_id(body), "analysis": "because", **keys})


class JudgeServer:
    """`answer(body, number)` gives the text of the reply, or a `Fault`; `number` counts requests from 0."""

    def __init__(self, answer: Callable[[Body, int], str | Fault]) -> None:
        self.answer = answer
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.running = self.most = 0
        self.ended = threading.Event()
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are two writes, which would wait 40 ms for each other

            def do_POST(self) -> None:
                outer.handle(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:  # a client that gave up
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    @property
    def count(self) -> int:
        return len(self.bodies)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        assert handler.path == "/v1/chat/completions"
        with self.lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            answer = self.answer(body, number)
        finally:
            with self.lock:  # before the reply: the next request may come in while it is still being written
                self.running -= 1
        reply = answer if isinstance(answer, Fault) else said(answer)
        if reply.hang:
            self.ended.wait(60)
            handler.close_connection = True
            return
        handler.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(reply.body)))
        handler.end_headers()
        if reply.drip:
            for byte in reply.body:
                handler.wfile.write(bytes([byte]))
                if self.ended.wait(0.05):
                    return
        handler.wfile.write(reply.body)


@contextmanager
def serving(answer: Callable[[Body, int], str | Fault]) -> Iterator[JudgeServer]:
    judge = JudgeServer(answer)
    thread = threading.Thread(target=judge.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        judge.ended.set()
        judge.server.shutdown()
        judge.server.server_close()
        thread.join()


def closed_port() -> str:
    """The address of an endpoint that is not there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
