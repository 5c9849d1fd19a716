"""A teacher that vLLM serves (`vllm serve TEACHER`): log-probs of what the student sampled, by `prompt_logprobs`.

vLLM scores a prompt's tokens at temperature 1, whatever the request says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grpo.config.algorithm import DistillConfig
from grpo.engines.vllm.client import Server, addresses, new_client, run
from grpo.errors import UserError
from grpo.learner.batching import TrainRow
from grpo.model.loading.tokenizer import PROBE
from grpo.system.http import RequestFailed
from grpo.system.world import World

if TYPE_CHECKING:
    from httpx2 import AsyncClient

SETTING = "loss.distill.urls"
TIMEOUT, RETRIES = 600.0, 2  # seconds of a request; how often one that failed is made again
AT_ONCE = 32  # requests to each server: it batches them


@dataclass(frozen=True)
class ServedTeacher:
    """Its log-probs of rows, which the servers share among them."""

    servers: Sequence[Server]
    world: World

    @classmethod
    def of(cls, config: DistillConfig, tokenizer: Any) -> ServedTeacher:
        """
        Raises:
            UserError: a server does not answer, or cuts a text into other tokens than the `tokenizer` of its model.
        """
        teacher = cls([Server(url, TIMEOUT) for url in addresses(config.urls, SETTING)], World.current())
        for server in teacher.servers:
            if run(teacher._ask(server, "/tokenize", {"prompt": PROBE}))["tokens"] != tokenizer(PROBE)["input_ids"]:
                raise UserError(f"{SETTING}: vLLM at {server.url} has other tokens than '{config.model}'")
        return teacher

    def sampled_at(self, temperature: float) -> None:
        """At 1 and no other (`grpo.config.training`)."""

    def logprobs(self, rows: Sequence[TrainRow]) -> list[tuple[float, ...]]:
        """
        Raises:
            UserError: a server does not answer, or not with the log-probs of these tokens.
        """
        return self.world.spread(list(rows), lambda share: run(self._all(share)))

    async def _all(self, rows: Sequence[TrainRow]) -> list[tuple[float, ...]]:
        gate = asyncio.Semaphore(AT_ONCE * len(self.servers))

        async def one(client: AsyncClient, number: int, row: TrainRow) -> tuple[float, ...]:
            async with gate:
                return await self._one(client, self.servers[number % len(self.servers)], row)

        async with new_client() as client:
            return list(await asyncio.gather(*(one(client, number, row) for number, row in enumerate(rows))))

    async def _one(self, client: AsyncClient, server: Server, row: TrainRow) -> tuple[float, ...]:
        ids = [*row.prompt_ids, *row.rollout.completion.token_ids]
        body = {"prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        answer = await self._ask(server, "/v1/completions", body, client, tokens=len(ids))
        try:
            entries = answer["choices"][0]["prompt_logprobs"]
            if len(entries) != len(ids):
                raise ValueError(f"{len(entries)} log-probs of {len(ids)} tokens")
            pairs = zip(ids[len(row.prompt_ids) :], entries[len(row.prompt_ids) :], strict=True)
            return tuple(float(entry[str(token)]["logprob"]) for token, entry in pairs)
        except (ValueError, TypeError, LookupError) as error:
            problem = f"not an answer of vLLM with prompt_logprobs: {type(error).__name__}: {error}"
            raise UserError(f"{SETTING}: {server.url}: {problem}") from error

    async def _ask(
        self, server: Server, path: str, body: Any, client: AsyncClient | None = None, tokens: int = 0
    ) -> Any:
        if client is None:
            async with new_client() as client:
                return await self._ask(server, path, body, client, tokens)
        try:
            return await server.post(client, path, body, RETRIES, tokens=tokens)
        except RequestFailed as failure:
            raise UserError(f"{SETTING}: vLLM at {server.url}: {failure}") from failure
