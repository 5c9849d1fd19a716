"""One OpenAI-compatible chat endpoint, asked patiently: bounded concurrency and time, retries, a circuit breaker.

The client library's own retries are off: their delays cannot be set, and they know nothing of the breaker.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI, OpenAIError
from pydantic import BaseModel, Field, ValidationError

from grpo.errors import UserError, one_line
from grpo.system.http import holds_secret, is_address, may_pass, pause, retry_after
from rewards.judge.breaker import Breaker, BreakerOpen

Message = Mapping[str, str]


class RequestFailed(Exception):
    """No reply could be had; the text says why and never holds the key.

    `retry`: another attempt may help. `down`: the endpoint did not work at all, as the breaker counts it. `wait`:
    seconds that it asked us to wait.
    """

    def __init__(self, text: str, *, retry: bool = False, down: bool = False, wait: float | None = None) -> None:
        super().__init__(text)
        self.retry, self.down, self.wait = retry, down, wait


@dataclass(frozen=True)
class Reply:
    """What the model wrote; `cut`: it reached its token limit."""

    text: str
    cut: bool


class _Message(BaseModel):
    content: str | None  # None for a refusal, or when all tokens went into the reasoning


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Body(BaseModel):
    """What is needed of a chat completion; the client library does not validate what it gets."""

    choices: list[_Choice] = Field(min_length=1)


class Endpoint:
    """Sends chat requests.

    Args:
        base_url: up to and including the version, like `http://localhost:8000/v1`.
        key_env: name of the environment variable with the key, read anew for every client; None sends none.
        fields: what every request holds besides its messages: model, temperature, ...
        concurrency: requests in flight at a time (per event loop).
        timeout: seconds for one request, from connecting to the last byte.
        retries: further attempts on 408, 409, 429, 5xx, timeouts, connection errors and garbage.
        backoff: seconds before the first retry; doubled each time up to `MAX_WAIT`, times a random 0.5 to 1.
        breaker: shared by all requests.

    Raises:
        UserError: a base_url that is none or holds a secret, a `key_env` that names no set variable.
    """

    def __init__(
        self,
        base_url: str,
        key_env: str | None,
        fields: Mapping[str, Any],
        *,
        concurrency: int,
        timeout: float,
        retries: int,
        backoff: float,
        breaker: Breaker,
    ) -> None:
        _check_url(base_url)
        self.base_url, self.key_env, self.fields = base_url, key_env, dict(fields)
        self.concurrency, self.timeout, self.retries, self.backoff = concurrency, timeout, retries, backoff
        self.breaker = breaker
        self.last_error = ""
        self._slots: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}
        self._key()

    def client(self) -> AsyncOpenAI:
        """A client for one batch of requests in the running event loop, to be closed by `async with`.

        The library would take key, organisation and project from OPENAI_... variables, and with them send one
        service's credentials to another: only `key_env` counts here.
        """
        key = self._key() or "none"  # a server without keys ignores it
        headers = {"Authorization": f"Bearer {key}"}  # explicit, so that OPENAI_CUSTOM_HEADERS cannot replace it
        client = AsyncOpenAI(
            api_key=key, base_url=self.base_url, max_retries=0, timeout=self.timeout, default_headers=headers
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
            for attempt in range(self.retries + 1):
                try:
                    return await self._attempt(client, messages)
                except RequestFailed as failure:
                    if not failure.retry or attempt == self.retries:
                        raise
                    await asyncio.sleep(pause(attempt, self.backoff, failure.wait))
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, client: AsyncOpenAI, messages: Sequence[Message]) -> Reply:
        try:
            probe = self.breaker.enter()
        except BreakerOpen:
            reason = f"not sent: the endpoint failed {self.breaker.failures} times in a row; last: {self.last_error}"
            raise RequestFailed(reason) from None
        try:
            reply = await self._send(client, messages)
        except RequestFailed as failure:
            self.last_error = str(failure)
            if failure.down:
                self.breaker.failed(probe)
            else:
                self.breaker.succeeded()
            raise
        except BaseException:
            self.breaker.left(probe)
            raise
        self.breaker.succeeded()
        return reply

    async def _send(self, client: AsyncOpenAI, messages: Sequence[Message]) -> Reply:
        create: Any = client.chat.completions.with_raw_response.create
        try:
            async with asyncio.timeout(self.timeout):  # the client's own limit is for each read: it bounds no drip
                raw = await create(messages=messages, **self.fields)
        except (TimeoutError, APITimeoutError):
            raise RequestFailed(f"no reply within {self.timeout:g} s", retry=True, down=True) from None
        except APIStatusError as error:
            raise self._bad_status(error) from None
        except APIConnectionError as error:
            raise RequestFailed(self._line(f"no connection: {error.__cause__}"), retry=True, down=True) from None
        except OpenAIError as error:
            raise RequestFailed(self._line(f"{type(error).__name__}: {error}")) from None
        try:
            choice = _Body.model_validate_json(raw.content).choices[0]
        except ValidationError:
            text = self._line(f"the reply is no chat completion: {raw.content.decode('utf-8', 'replace')}")
            raise RequestFailed(text, retry=True, down=True) from None
        return Reply(choice.message.content or "", choice.finish_reason == "length")

    def _bad_status(self, error: APIStatusError) -> RequestFailed:
        status = error.status_code
        reason = error.body
        if isinstance(reason, dict):
            reason = reason.get("message") or reason.get("detail") or reason
        return RequestFailed(
            self._line(f"HTTP {status}: {reason or 'no reason given'}"),
            retry=may_pass(status),
            down=status >= 500,
            wait=retry_after(error.response.headers.get("retry-after")),
        )

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


def _check_url(base_url: str) -> None:
    """Nothing of a wrong address is repeated: it may hold a password."""
    if not is_address(base_url):
        raise UserError("base_url must be an address like http://localhost:8000/v1")
    if holds_secret(base_url):
        raise UserError("base_url must not hold a user, a password, a query or a fragment; a key goes into key_env")
