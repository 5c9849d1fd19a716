"""One OpenAI-compatible chat endpoint, asked patiently: bounded concurrency and time, retries, a circuit breaker."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from openai import APIConnectionError, APIStatusError, AsyncOpenAI, OpenAIError
from pydantic import AliasPath, BaseModel, Field, ValidationError

from grpo.errors import UserError, one_line
from grpo.system.bounded import MIB, Refused, bounded_client
from grpo.system.http import RequestFailed, bad_status, holds_secret, is_address, patiently
from grpo.types import Message
from rewards.judge.breaker import Breaker

OPENAI, KEY_ENV = "https://api.openai.com/v1", "OPENAI_API_KEY"
MAX_REPLY = 16 * MIB  # a verdict has a few thousand characters


class Reply(BaseModel):
    """What is needed of a chat completion; the client library does not validate what it gets."""

    # None for a refusal, or when all tokens went into the reasoning.
    content: str | None = Field(validation_alias=AliasPath("choices", 0, "message", "content"))
    finish_reason: str | None = Field(None, validation_alias=AliasPath("choices", 0, "finish_reason"))


@dataclass
class Endpoint:
    """Sends chat requests. What the fields mean is said at `Judge`.

    Raises:
        UserError: a base_url that is none or holds a secret, a `key_env` that names no set variable.
    """

    base_url: str | None
    key_env: str | None  # the variable is read anew for every client
    fields: Mapping[str, Any]  # what every request holds besides its messages: model, temperature, ...
    concurrency: int  # per event loop
    timeout: float  # from connecting to the last byte
    retries: int
    backoff: float
    breaker: Breaker  # shared by all requests
    _slots: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Nothing of a wrong address is repeated: it may hold a password."""
        given = os.environ.get("OPENAI_BASE_URL", "").strip()
        name = "base_url" if self.base_url or not given else "OPENAI_BASE_URL"
        address = self.base_url or given or OPENAI
        if not is_address(address):
            raise UserError(f"{name} must be an address like http://localhost:8000/v1")
        if holds_secret(address):
            raise UserError(f"{name} must not hold a user, a password, a query or a fragment; a key goes into key_env")
        # The environment's key is for the environment's service, and never goes to another address.
        if self.key_env is None and address in (given or OPENAI, OPENAI):
            self.key_env = KEY_ENV if os.environ.get(KEY_ENV, "").strip() else None
        if address == OPENAI and self.key_env is None:
            raise UserError(f"give base_url (or set OPENAI_BASE_URL), or set {KEY_ENV} for OpenAI's own service")
        self.base_url = address
        self._key()

    def client(self) -> AsyncOpenAI:
        """A client for one batch of requests in the running event loop, to be closed by `async with`.

        The library would take key, organisation and project from OPENAI_... variables, and with them send one
        service's credentials to another: only `key_env` counts here (see `__post_init__` for what it is by default).
        """
        key = self._key() or "none"  # a server without keys ignores it
        headers = {"Authorization": f"Bearer {key}"}  # explicit, so that OPENAI_CUSTOM_HEADERS cannot replace it
        client = AsyncOpenAI(
            api_key=key,
            base_url=self.base_url,
            max_retries=0,
            timeout=None,
            default_headers=headers,
            http_client=bounded_client(str(self.base_url), MAX_REPLY),
        )
        client.organization = client.project = None
        return client

    async def ask(self, client: AsyncOpenAI, messages: Sequence[Message]) -> Reply:
        """The reply of the model.

        A request keeps its place among the `concurrency` while it waits for its next attempt: an endpoint in trouble
        is not given more to do.

        Raises:
            RequestFailed: after all attempts, or at once when another would not help or the breaker is open.
        """
        async with self._running_slots():
            attempt = partial(self._send, client, messages)
            return await patiently(
                attempt, self.retries, self.backoff, self.timeout, around=self.breaker.request, noun="reply"
            )

    async def _send(self, client: AsyncOpenAI, messages: Sequence[Message]) -> Reply:
        create: Any = client.chat.completions.with_raw_response.create
        try:
            raw = await create(messages=messages, **self.fields)
        except APIStatusError as error:
            reason = error.body
            if isinstance(reason, dict):
                reason = reason.get("message") or reason.get("detail") or reason
            text = self._line(f"HTTP {error.status_code}: {reason or 'no reason given'}")
            raise bad_status(error.status_code, text, error.response.headers.get("retry-after")) from None
        except APIConnectionError as error:
            if isinstance(error.__cause__, Refused):
                raise RequestFailed(self._line(str(error.__cause__)), again=False) from None
            raise RequestFailed(self._line(f"no connection: {error.__cause__}")) from None
        except Refused as error:  # while the reply was read
            raise RequestFailed(self._line(str(error)), again=False) from None
        except OpenAIError as error:
            raise RequestFailed(self._line(f"{type(error).__name__}: {error}"), again=False) from None
        try:
            return Reply.model_validate_json(raw.content)
        except ValidationError:
            text = raw.content.decode("utf-8", "replace")
            raise RequestFailed(self._line(f"the reply is no chat completion: {text}")) from None

    def _line(self, text: str) -> str:
        """One short line without the key, which a server may repeat; it is taken out before the text is cut."""
        key = self._key()
        return one_line(text.replace(key, "***") if key else text, 200)

    def _running_slots(self) -> asyncio.Semaphore:
        """Semaphores belong to one event loop; those of closed loops are forgotten."""
        self._slots = {loop: slots for loop, slots in self._slots.items() if not loop.is_closed()}
        return self._slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self.concurrency))

    def _key(self) -> str:
        """Never kept in an attribute, where a repr, a pickle or a debugger's dump would find it."""
        if self.key_env is None:
            return ""
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            # Some keys look like a name: what may be one by mistake is not repeated.
            named = f" '{self.key_env}'" if re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key_env) else ""
            raise UserError(f"key_env{named} names no environment variable that is set (give its name, not the key)")
        if not re.fullmatch(r"[!-~]+", key):
            raise UserError(f"key_env: the value of '{self.key_env}' has characters that no HTTP header may hold")
        return key
