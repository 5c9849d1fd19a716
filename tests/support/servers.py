"""The HTTP server of all tests: it answers as it is told, also badly, and keeps what has reached it."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """`body`: bytes as they are, a list as a stream of events (strings, or what is written as JSON), else JSON.

    `hang`: nothing until the server ends, also as an event of a stream; `drip`: the body byte by byte, slowly;
    `drop`: the connection ends.
    """

    status: int = 200
    body: Any = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    drip: bool = False
    drop: bool = False


HANG, DROP = Reply(hang=True), Reply(drop=True)


class Server:
    """`answer(path, body, number)` gives the reply; `number` counts requests from 0."""

    def __init__(self, answer: Callable[[str, Body, int], Reply], prefix: str = "") -> None:
        self.answer = answer
        self.paths: list[str] = []
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

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        class Http(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:  # a client that gave up
                pass

        self.http = Http(("127.0.0.1", 0), Handler)
        self.port = self.http.server_port
        self.url = f"http://127.0.0.1:{self.port}{prefix}"

    @property
    def count(self) -> int:
        return len(self.bodies)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        text = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        body = json.loads(text) if text else {}
        with self.lock:
            number = len(self.bodies)
            self.paths.append(handler.path)
            self.bodies.append(body)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            reply = self.answer(handler.path, body, number)
        finally:
            with self.lock:  # before the reply: the next request may come in while it is still being written
                self.running -= 1
        if reply.hang or reply.drop:
            self.ended.wait(60 if reply.hang else 0)
            handler.close_connection = True
        else:
            self.send(handler, reply)

    def send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        streams = isinstance(reply.body, list)
        content = reply.body if streams or isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        headers = {"Content-Type": "text/event-stream" if streams else "application/json", **reply.headers}
        headers |= {"Connection": "close"} if streams else {"Content-Length": str(len(content))}
        handler.send_response(reply.status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        if streams:
            for event in content:
                if event is HANG:
                    self.ended.wait(60)
                    return
                handler.wfile.write(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode())
        elif reply.drip:
            for byte in content:
                handler.wfile.write(bytes([byte]))
                if self.ended.wait(0.05):
                    return
        else:
            handler.wfile.write(content)


@contextmanager
def listening(answer: Callable[[str, Body, int], Reply], prefix: str = "") -> Iterator[Server]:
    server = Server(answer, prefix)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.http.shutdown()
        server.http.server_close()
        thread.join()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def closed_port() -> str:
    """The address of a server that is not there."""
    return f"http://127.0.0.1:{free_port()}"
