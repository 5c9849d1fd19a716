"""A chat-completions endpoint on this machine that fails as told, and counts what reaches it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from support.servers import HttpServer, begin, body_of

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


class JudgeServer(HttpServer):
    """`answer(body, number)` gives the text of the reply, or a `Fault`; `number` counts requests from 0."""

    def __init__(self, answer: Callable[[Body, int], str | Fault]) -> None:
        super().__init__()
        self.answer = answer
        self.url = f"{self.address}/v1"
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.running = self.most = 0

    @property
    def count(self) -> int:
        return len(self.bodies)

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = body_of(request)
        assert request.path == "/v1/chat/completions"
        with self.lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.headers.append({name.lower(): value for name, value in request.headers.items()})
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            answer = self.answer(body, number)
        finally:
            with self.lock:  # before the reply: the next request may come in while it is still being written
                self.running -= 1
        fault = answer if isinstance(answer, Fault) else said(answer)
        if fault.hang:
            self.hang(request)
            return
        begin(request, fault.status, len(fault.body), **{"Content-Type": "application/json", **fault.headers})
        if fault.drip:
            for byte in fault.body:
                request.wfile.write(bytes([byte]))
                if self.ended.wait(0.05):
                    return
        request.wfile.write(fault.body)


serving = JudgeServer
