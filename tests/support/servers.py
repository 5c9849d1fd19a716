"""An HTTP server in a thread of the test, for what the tests put in the place of a service."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class HttpServer:
    """Calls `handle(request)` for every GET and POST; used in a `with`, at whose end `ended` is set."""

    def __init__(self) -> None:
        self.ended = threading.Event()  # lets go of what hangs
        self.lock = threading.Lock()
        handle = self.handle

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are two writes, which would wait 40 ms for each other

            def do_GET(self) -> None:
                handle(self)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:  # a client that gave up
                pass

        self.http = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        raise NotImplementedError

    def hang(self, request: BaseHTTPRequestHandler) -> None:
        """No answer, until the server ends."""
        self.ended.wait(60)
        request.close_connection = True

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.ended.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def body_of(request: BaseHTTPRequestHandler) -> Any:
    """The JSON that was sent; {} where nothing was."""
    text = request.rfile.read(int(request.headers.get("Content-Length") or 0))
    return json.loads(text) if text else {}


def begin(request: BaseHTTPRequestHandler, status: int, length: int | None, **headers: str) -> None:
    """Status and headers. Without a length the end of the connection is that of the answer."""
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header(*(("Connection", "close") if length is None else ("Content-Length", str(length))))
    request.end_headers()


def reply(request: BaseHTTPRequestHandler, status: int, answer: Any, **headers: str) -> None:
    """Bytes as they are, anything else as JSON."""
    content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    begin(request, status, len(content), **headers)
    request.wfile.write(content)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def closed_port() -> str:
    """The address of a service that is not there."""
    return f"http://127.0.0.1:{free_port()}"
