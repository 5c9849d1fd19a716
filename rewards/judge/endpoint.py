"""One OpenAI-compatible chat endpoint, asked patiently: bounded concurrency and time, retries, a circuit breaker."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from openai import APIConnectionError, APIStatusError, AsyncOpenAI, OpenAIError
from pydantic import AliasPath, BaseModel, Field, ValidationError

from grpo.system.bounded import MIB, Refused
from grpo.system.http import RequestFailed, bad_status, patiently
from grpo.system.service import Service
from grpo.types import Message
from rewards.judge.breaker import Breaker

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
        UserError: see `Service.chosen`.
    """

    base_url: str | None
    key_env: str | None
    fields: Mapping[str, Any]  # what every request holds besides its messages: model, temperature, ...
    concurrency: int  # per event loop
    timeout: float  # from connecting to the last byte
    retries: int
    backoff: float
    breaker: Breaker  # shared by all requests
    service: Service = field(init=False)
    _slots: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.service = Service.chosen(self.base_url, self.key_env)

    def client(self) -> AsyncOpenAI:
        """For one batch of requests in the running event loop, to be closed by `async with`."""
        return self.service.client(MAX_REPLY)

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
        return self.service.line(text, 200)

    def _running_slots(self) -> asyncio.Semaphore:
        """Semaphores belong to one event loop; those of closed loops are forgotten."""
        self._slots = {loop: slots for loop, slots in self._slots.items() if not loop.is_closed()}
        return self._slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self.concurrency))
