"""Completions from a server with OpenAI's chat API: streamed, timed, counted, tried again when that may help.

The key comes from the environment and from nowhere else, and is in no message, file or log.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from grpo.errors import UserError
from grpo.evaluation.kept import Kept
from grpo.system.http import FIRST_DELAY, RequestFailed, bad_status, patiently
from grpo.system.progress import progress
from grpo.system.service import OPENAI, Service
from grpo.types import Completion, FinishReason, Group, Prompt, Rollout, Sampling
from stages.served.config import EndpointConfig

MAX_STREAM = 256 * 2**20  # bytes: each token comes in some hundred
MAX_FAILED = 0.02  # share of requests without an answer past which an evaluation is none
REFUSED = (401, 403, 404)  # key, permission, address or model: no request will do better


@dataclass(frozen=True)
class Answer:
    """One completion. Seconds are of the attempt that succeeded; a count is None where the server gave none."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int | None
    tokens: int | None
    first_token: float | None  # seconds to the first token; None: it wrote none
    seconds: float

    @property
    def measured(self) -> dict[str, Any]:
        """For its row in the completions."""
        return {"tokens": self.tokens, "seconds": self.seconds, "first_token": self.first_token}


@dataclass
class Served:
    """What came of the requests."""

    answers: dict[tuple[int, int], Answer] = field(default_factory=dict)  # (prompt, sample), without the failed ones
    failed: int = 0
    retries: int = 0
    first_error: str = ""
    asked: list[tuple[int, int]] = field(default_factory=list)  # now: the answers to the others are of an earlier try
    seconds: float = 0.0

    def by_prompt(self, prompts: int) -> list[list[Answer]]:
        """The answers to each prompt, in the order of its samples."""
        rows: list[list[Answer]] = [[] for _ in range(prompts)]
        for number, sample in sorted(self.answers):
            rows[number].append(self.answers[number, sample])
        return rows


def group_of(prompt: Prompt, answers: Sequence[Answer]) -> Group:
    """Completions without tokens: the server's are not known."""
    completions = (Completion((), (), answer.finish_reason, answer.text) for answer in answers)
    return Group(prompt, tuple(map(Rollout, completions)))


def serve(
    config: EndpointConfig, prompts: Sequence[Prompt], sampling: Sampling, seed: int, kept: Kept | None = None
) -> Served:
    """Ask for `sampling.group_size` completions of every prompt, but for those that are `kept` of an earlier try.

    Raises:
        UserError: the endpoint refuses, cannot be reached, or more than `MAX_FAILED` of the requests have no answer;
            no key where one is needed, or an address that is none.
    """
    return asyncio.run(_serve(_Server(config, sampling, seed), prompts, kept))


async def _serve(server: _Server, prompts: Sequence[Prompt], kept: Kept | None) -> Served:
    samples = range(server.sampling.group_size)
    everything = [(number, sample) for number in range(len(prompts)) for sample in samples]
    before = {key: Answer(**answer) for key, answer in kept.read().items()} if kept else {}
    served = Served({job: before[key] for job in everything if (key := (prompts[job[0]].id, job[1])) in before})
    asked = served.asked = [job for job in everything if job not in served.answers]
    jobs, total, done = iter(asked), len(everything), len(served.answers)
    start = time.monotonic()

    async def work() -> None:
        for job in jobs:  # shared by all workers
            try:
                answer = served.answers[job] = await server.ask(prompts[job[0]], job[1])
                if kept:
                    kept.add((prompts[job[0]].id, job[1]), asdict(answer))
            except RequestFailed as failure:
                _count(served, failure, total, server.name)
            bar.advance(1)

    with progress("endpoint", total=total, done=done) as bar:
        async with server.client:
            await asyncio.gather(*(work() for _ in range(min(server.config.concurrency, total))))
    served.seconds, served.retries = time.monotonic() - start, server.attempts - len(asked)
    return served


def _count(served: Served, failure: RequestFailed, total: int, name: str) -> None:
    """The first error that shows that the others need not be waited for ends it all."""
    served.failed += 1
    served.first_error = served.first_error or str(failure)
    if failure.status in REFUSED or (failure.again and not served.answers):  # nothing has ever worked
        raise UserError(f"{name}: {failure}")
    if served.failed > int(MAX_FAILED * total):
        raise UserError(
            f"{name}: {served.failed} of {total} requests have no answer, more than {MAX_FAILED:.0%}; "
            f"first: {served.first_error}"
        )


class _Server:
    """Sends the requests."""

    def __init__(self, config: EndpointConfig, sampling: Sampling, seed: int) -> None:
        self.config, self.sampling, self.seed, self.attempts = config, sampling, seed, 0
        self.service = service_of(config)
        address = address_of(config)
        self.name = f"openai:{config.model}" + (f" at {address}" if address else "")
        self.client = self.service.client(MAX_STREAM)

    async def ask(self, prompt: Prompt, sample: int) -> Answer:
        seed = hashlib.blake2b(f"{self.seed}/{prompt.id}/{sample}".encode(), digest_size=4).digest()
        fields = {"seed": int.from_bytes(seed) >> 1, **request_fields(self.config, self.sampling)}
        sent = {name: value for name, value in fields.items() if value is not None}
        attempt = partial(self._attempt, prompt.messages, sent)
        return await patiently(attempt, self.config.retries, FIRST_DELAY, self.config.timeout)

    async def _attempt(self, messages: Any, fields: dict[str, Any]) -> Answer:
        import httpx2
        import openai

        from grpo.system.bounded import Refused

        self.attempts += 1
        try:
            start = time.monotonic()
            stream = await self.client.chat.completions.create(
                model=self.config.model, messages=messages, stream=True, extra_body=fields
            )
            async with stream:
                return await read_stream(stream, start)
        except openai.APIStatusError as error:
            message = error.body.get("message") if isinstance(error.body, dict) else None
            text = self.service.line(f"HTTP {error.status_code}: {message or error.message}")
            hint = " (endpoint.fields={NAME: null} leaves a field out)" if error.status_code in (400, 422) else ""
            if error.status_code == 401 and self.service.key_env is None:
                hint = "; no key was sent: key_env names its variable"
            raise bad_status(error.status_code, text + hint, error.response.headers.get("retry-after")) from None
        except (openai.OpenAIError, httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            reason = error.__cause__ or error
            again = not isinstance(reason, Refused)
            raise RequestFailed(self.service.line(f"{type(reason).__name__}: {reason}"), again=again) from None
        except (ValueError, TypeError, AttributeError) as error:  # the client does not validate what it is sent
            raise RequestFailed(self.service.line(f"not a stream of completions: {error}")) from None


def mended(text: str) -> str:
    """The halves of a character that was cut in two put together; one alone is no character that a file could hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


async def read_stream(chunks: AsyncIterable[Any], start: float) -> Answer:
    """Put a stream together. Thinking that the server sends apart goes into the tags that it took away.

    Raises:
        ValueError: it ends before the completion does.
    """
    thinking: list[str] = []
    content: list[str] = []
    first: float | None = None
    finish: str | None = None
    usage: Any = None
    async for chunk in chunks:
        usage = getattr(chunk, "usage", None) or usage
        for choice in chunk.choices or ():
            thought = getattr(choice.delta, "reasoning_content", None) or getattr(choice.delta, "reasoning", None)
            if first is None and (thought or choice.delta.content):
                first = time.monotonic() - start
            thinking.append(thought or "")
            content.append(choice.delta.content or "")
            finish = choice.finish_reason or finish
    if finish is None:
        raise ValueError("it ends before the completion does")
    thoughts, said = mended("".join(thinking)), mended("".join(content))
    return Answer(
        text=f"<think>\n{thoughts.strip()}\n</think>\n{said}" if thoughts else said,
        finish_reason="length" if finish == "length" else "stop",
        prompt_tokens=getattr(usage, "prompt_tokens", None),
        tokens=getattr(usage, "completion_tokens", None),
        first_token=first,
        seconds=time.monotonic() - start,
    )


def request_fields(config: EndpointConfig, sampling: Sampling) -> dict[str, Any]:
    """What every request holds besides its messages and seed; a value of None is not sent."""
    limit = (
        "max_tokens" if address_of(config) else "max_completion_tokens"
    )  # OpenAI's newer models know only the latter
    return {
        "model": config.model,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        limit: sampling.max_tokens,
        "stream_options": {"include_usage": True},
        **config.fields,
    }


def service_of(config: EndpointConfig, option: str = "base_url") -> Service:
    """
    Raises:
        UserError: see `Service.chosen`.
    """
    return Service.chosen(config.base_url, config.key_env, option)


def address_of(config: EndpointConfig) -> str | None:
    """None for OpenAI's own."""
    address = service_of(config).address
    return None if address == OPENAI else address
