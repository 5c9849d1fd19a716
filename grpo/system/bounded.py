"""HTTP replies of servers that are not ours: of bounded size, unpacked, and of the host that was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2

MIB = 2**20


class Refused(httpx2.TransportError):
    """What such a server may not do; to ask again would not help."""


class _Counted(httpx2.AsyncByteStream):
    """A reply's bytes, as long as they are not too many."""

    def __init__(self, stream: Any, limit: int) -> None:
        self.stream, self.limit = stream, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for part in self.stream:
            seen += len(part)
            if seen > self.limit:
                raise Refused(f"the reply is larger than {self.limit // MIB} MiB")
            yield part

    async def aclose(self) -> None:
        await self.stream.aclose()


def bounded_client(address: str, limit: int) -> httpx2.AsyncClient:
    """For openai's library. Its requests, which may hold a key, go to the host of `address` alone, wherever that
    redirects; a reply of more than `limit` bytes, or a packed one, which may be any size, is `Refused`."""
    from openai import DefaultAsyncHttpxClient

    origin = _origin(httpx2.URL(address))

    async def asked(request: httpx2.Request) -> None:
        if _origin(request.url) != origin:
            host = f"{request.url.scheme}://{request.url.netloc.decode(errors='replace')}"
            raise Refused(f"it redirects to {host}: give that address if you trust it")

    async def answered(response: httpx2.Response) -> None:
        packed = response.headers.get("content-encoding", "identity").strip().lower()
        if packed not in ("", "identity"):
            raise Refused(f"the reply is packed ({packed}), which was not asked for")
        response.stream = _Counted(response.stream, limit)

    hooks: dict[str, list[Any]] = {"request": [asked], "response": [answered]}
    return DefaultAsyncHttpxClient(timeout=None, headers={"Accept-Encoding": "identity"}, event_hooks=hooks)


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)
