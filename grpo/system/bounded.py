"""HTTP replies of servers that are not ours: of bounded size, unpacked, and of the host that was asked."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2

MIB = 2**20
LIMIT = "grpo_limit"  # of a request's extensions: bytes of its reply, in the place of the client's


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

    return DefaultAsyncHttpxClient(**bounds(limit, asked))


def bounds(limit: int, *asked: Any) -> dict[str, Any]:
    """What makes a client one whose replies are bounded; `asked` sees each request first. How long a request may take
    is decided where it is sent."""

    async def answered(response: httpx2.Response) -> None:
        packed = response.headers.get("content-encoding", "identity").strip().lower()
        if packed not in ("", "identity"):
            raise Refused(f"the reply is packed ({packed}), which was not asked for")
        response.stream = _Counted(response.stream, response.request.extensions.get(LIMIT, limit))

    hooks: dict[str, list[Any]] = {"request": list(asked), "response": [answered]}
    return {"timeout": None, "headers": {"Accept-Encoding": "identity"}, "event_hooks": hooks}


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)
