"""The key of a server that `grpo serve` starts: a file of our user hands it to runs, and nothing answers without it.

vLLM imports this file too, for `KeyGuard`: it stays small.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from grpo.errors import UserError
from grpo.system.private import read_own, write_private

VARIABLE = "VLLM_API_KEY"  # vLLM's own name: a server that was started by hand with a key is asked with it, too
FOLDER = Path("~/.grpo/keys")
OPEN = "/health"  # the one path that wants no key

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class KeyGuard:
    """Around vLLM's application (`--middleware`): its own --api-key leaves open what gives a server new weights."""

    def __init__(self, app: Any) -> None:
        self.app, self.key = app, os.environ[VARIABLE].encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan" or (kind == "http" and scope["path"] == OPEN) or self._has_key(scope["headers"]):
            await self.app(scope, receive, send)
        elif kind == "http":
            text = b'{"error": {"message": "no API key, or another one"}}'
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": text})
        else:
            await send({"type": f"{kind}.close", "code": 1008})

    def _has_key(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        given = [value.partition(b" ") for name, value in headers if name.lower() == b"authorization"]
        return [scheme.lower() for scheme, _, _ in given] == [b"bearer"] and hmac.compare_digest(given[0][2], self.key)


def refusals(url: str, port: int) -> list[OSError | None]:
    """Of each address that the url's host stands for: why nothing can be bound to it at this port, None if it can."""
    try:
        places = socket.getaddrinfo(urlsplit(url).hostname or "", port, type=socket.SOCK_STREAM)
    except OSError as unknown:
        return [unknown]
    reasons: list[OSError | None] = []
    for family, kind, protocol, _, place in places:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
            reasons.append(None)
        except OSError as refusal:
            reasons.append(refusal)
    return reasons


def is_here(url: str) -> bool:
    """Whether an address is this machine's: only an own one can be bound."""
    return None in refusals(url, 0)


def key_file(url: str) -> Path:
    """Where the key of the server at this address is. Its name says the machine: folders of users may be shared by
    several, and one server may have several addresses."""
    parts = urlsplit(url)
    machine = socket.gethostname().lower() if is_here(url) else parts.hostname
    return FOLDER.expanduser() / f"{machine}-{parts.port or 80}"


def give_key(file: Path, key: str) -> None:
    """
    Raises:
        UserError: it cannot be written.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.unlink(missing_ok=True)  # of a server that was killed
        write_private(file.parent, file.name, key.encode())
        read_own(file.parent, file.name)
    except (OSError, ValueError) as error:
        raise UserError(f"'{file}': the server's key cannot be handed to runs there: {_reason(error)}") from error


def take_key(file: Path) -> str:
    """The environment's key, else that of the file; "" without both.

    Raises:
        UserError: it is no key, or not for us alone.
    """
    if key := environment_key():
        return key
    try:
        return read_own(file.parent, file.name).decode("ascii", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as error:
        raise UserError(f"'{file}': the server's key: {_reason(error)}") from error


def environment_key() -> str:
    """
    Raises:
        UserError: it is no key.
    """
    key = os.environ.get(VARIABLE, "").strip()
    if key and not re.fullmatch(r"[!-~]+", key):
        raise UserError(f"{VARIABLE}: its value has characters that no HTTP header may hold")
    return key


def new_key() -> str:
    return environment_key() or secrets.token_urlsafe(32)


def drop_key(file: Path) -> None:
    with suppress(OSError):
        file.unlink()


def refused(url: str, file: Path, given: str) -> UserError:
    """What a 401 means."""
    where = f"`grpo serve` writes it to {FOLDER}/MACHINE-PORT where it runs"
    expected = f"expected in {VARIABLE} or in '{file}'; {where}"
    if not given:
        return UserError(f"vLLM at {url} wants an API key, {expected}")
    source = VARIABLE if environment_key() else f"'{file}'"
    return UserError(f"vLLM at {url} refuses the API key of {source}: another one is {expected}")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
