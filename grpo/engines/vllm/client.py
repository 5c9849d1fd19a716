"""One `vllm serve` process, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import ssl
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from grpo.engines.vllm.key import OPEN, key_file, refused, take_key
from grpo.errors import UserError, describe, one_line
from grpo.system.http import FIRST_DELAY, RequestFailed, bad_status, holds_secret, is_address, patiently

if TYPE_CHECKING:
    from httpx2 import AsyncClient

ResultT = TypeVar("ResultT")
log = logging.getLogger("grpo")

HEALTH_SECONDS = 5.0  # a server that runs says so at once
MAX_REPLY = 16 * 2**20  # bytes of a reply without completions: settings, errors
TOKEN_BYTES = 1024  # of a token with its log-prob, three times what vLLM sends


class Server:
    """A server that runs, or is left out until the run ends."""

    def __init__(self, url: str, timeout: float) -> None:
        self.url = address(url)
        self.timeout = timeout  # seconds for one request
        self.left_out: str | None = None  # why

    @functools.cached_property
    def key_file(self) -> Path:
        return key_file(self.url)

    def leave_out(self, why: str) -> None:
        """Not asked any more, until the run ends."""
        if self.left_out is None:
            self.left_out = why
            log.warning("vLLM at %s is left out from now on: %s", self.url, why)

    async def get(self, client: AsyncClient, path: str, timeout: float | None = None) -> Any:
        return await self._ask(client, "GET", path, None, 0, timeout or self.timeout, MAX_REPLY)

    async def post(self, client: AsyncClient, path: str, body: Any = None, retries: int = 0, *, tokens: int = 0) -> Any:
        """The answer's JSON, which holds at most so many tokens. What may pass is tried `retries` times more; a server
        that hangs is not asked again.

        Raises:
            RequestFailed: no answer, or an error of the server.
            UserError: it refuses the request: another server would, too.
        """
        limit = MAX_REPLY + TOKEN_BYTES * tokens
        return await self._ask(client, "POST", path, body, retries, self.timeout, limit)

    async def _ask(
        self, client: AsyncClient, method: str, path: str, body: Any, retries: int, timeout: float, limit: int
    ) -> Any:
        request = functools.partial(self._once, client, method, path, body, limit)
        return await patiently(request, retries, FIRST_DELAY, timeout, after_hang=False)

    async def _once(self, client: AsyncClient, method: str, path: str, body: Any, limit: int) -> Any:
        import httpx2

        from grpo.system.bounded import LIMIT, Refused

        key = "" if path == OPEN else take_key(self.key_file)  # read anew: a server that is started again has another
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            extensions = {LIMIT: limit}
            response = await client.request(method, self.url + path, json=body, headers=headers, extensions=extensions)
        except Refused as error:
            raise RequestFailed(str(error), again=False) from None
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            raise RequestFailed(describe(error)) from error
        if response.status_code == 401:
            raise refused(self.url, self.key_file, key)
        if response.status_code != 200:
            failure = bad_status(response.status_code, f"HTTP {response.status_code}: {_message(response)}")
            if failure.again:
                raise failure
            raise UserError(f"vLLM at {self.url}{path}: {failure}")
        try:
            return response.json() if response.content else None
        except ValueError as error:
            raise RequestFailed("its answer is not JSON", status=200) from error


def addresses(urls: Sequence[str], setting: str = "engine.server.urls") -> list[str]:
    """The roots of servers, which `setting` names.

    Raises:
        UserError: one of them is no address, or there twice.
    """
    roots = [address(url, setting) for url in urls]
    if len(set(roots)) < len(roots):
        raise UserError(f"{setting}: one of them is there twice")
    return roots


def address(url: str, setting: str = "engine.server.urls") -> str:
    """The root of a server.

    Raises:
        UserError: it is none, or holds a secret, which would be shown in messages.
    """
    if not is_address(url) or holds_secret(url):
        raise UserError(f"{setting}: give addresses like http://localhost:8000, without user or query")
    return url.rstrip("/").removesuffix("/v1")


def new_client() -> AsyncClient:
    """How many requests run, and for how long, is decided where they are sent. It follows no redirect."""
    import httpx2

    from grpo.system.bounded import bounds

    return httpx2.AsyncClient(**bounds(MAX_REPLY), limits=httpx2.Limits(max_connections=None), verify=_certificates())


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Reading them takes longer than most requests."""
    return ssl.create_default_context()


async def health(server: Server) -> str:
    """Why it does not answer; empty when it does."""
    try:
        async with new_client() as client:
            await server.get(client, OPEN, timeout=min(HEALTH_SECONDS, server.timeout))
    except (RequestFailed, UserError) as failure:
        return str(failure)
    return ""


def run(coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The coroutine's result, also where a loop is running already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


class Runner:
    """`run`, which `close` ends from another thread."""

    def __init__(self) -> None:
        self._closed = False
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    def run(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        """
        Raises:
            asyncio.CancelledError: it was closed.
        """

        async def noted() -> ResultT:
            task = asyncio.create_task(coroutine)
            self._running = asyncio.get_running_loop(), task
            if self._closed:
                task.cancel()
            try:
                return await task
            finally:
                self._running = None

        return run(noted())

    def close(self) -> None:
        """Nothing runs any more, now and later."""
        self._closed = True
        if (running := self._running) is not None:
            with contextlib.suppress(RuntimeError):  # it has just come to its end
                running[0].call_soon_threadsafe(running[1].cancel)


def _message(response: Any) -> str:
    """One line, of OpenAI's form of an error or of any other."""
    try:
        error = response.json()["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, TypeError, KeyError):
        text = response.text or response.reason_phrase
    return one_line(text, 500)
