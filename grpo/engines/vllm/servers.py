"""vLLM in processes of its own, here or elsewhere: `vllm serve`, started by `grpo serve` or by hand.

The prompts of a rollout are shared among the servers; each group is one request, with token ids in and out. A server
that dies or hangs is left out and the others do its prompts. Every completion says which weights drew it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo.config.engine import EngineConfig
from grpo.config.inert import check_delivery
from grpo.engines.vllm.check import check_server
from grpo.engines.vllm.client import Runner, Server, addresses, health, new_client, run
from grpo.engines.vllm.request import check_sampling, parameters
from grpo.engines.vllm.start import ServedModel
from grpo.engines.vllm.weights import NCCL, live, pause, post_all, resume, send_by_files
from grpo.errors import UserError
from grpo.model.loading.tokenizer import completion_text
from grpo.system.http import RequestFailed
from grpo.system.progress import progress
from grpo.system.world import World
from grpo.types import Completion, FinishReason, Group, Heard, PolicyWeights, Prompt, Rollout, Sampling

if TYPE_CHECKING:
    from httpx2 import AsyncClient

Ask = Callable[["AsyncClient", Server, int], Awaitable[None]]
GENERATE = "/inference/v1/generate"  # vLLM's API of token ids
POLL_SECONDS = 1.0  # between two looks at a server that is starting


class ServerEngine:
    """Groups from the servers of `engine.server.urls`; `sync` gives them the policy's weights."""

    def __init__(self, config: EngineConfig, served: ServedModel):
        check_delivery(config, "vllm-server", served.lora)
        self.engine_config, self.config, self.served = config, config.server, served
        self.world = World.current()
        self.servers = [Server(url, config.server.timeout) for url in addresses(config.server.urls)]
        backends = {run(self._connect(server)) for server in self._started()}
        if len(backends) > 1:
            raise UserError(f"engine.server.urls: they were started with different transfers: {sorted(backends)}")
        self.nccl: Any = None
        if NCCL in backends:
            from grpo.engines.vllm.weights_nccl import NcclSender

            self.nccl = NcclSender(self.world.rank)
        # Other runs may have used these servers, or use them: a version of theirs must not look like ours.
        self.name = self.world.main_finds(lambda: uuid.uuid4().hex[:8])
        self.syncs = 0
        self._sampling = Runner()

    @property
    def version(self) -> str:
        """Of the weights that the servers have."""
        return f"{self.name}-{self.syncs}"

    def _started(self) -> list[Server]:
        """The servers, when all of them answer; a `UserError` when one does not in time."""

        def silent() -> dict[str, str]:
            return {server.url: failure for server in self.servers if (failure := run(health(server)))}

        until = time.monotonic() + self.config.start_timeout
        if not (waiting := silent()):
            return self.servers
        with progress("vLLM servers", len(self.servers), len(self.servers) - len(waiting)) as bar:
            while waiting:
                if time.monotonic() > until:
                    url, failure = next(iter(waiting.items()))
                    raise UserError(
                        f"vLLM at {url} is not there after {self.config.start_timeout:g} s "
                        f"(engine.server.start_timeout): {failure}; start it with `grpo serve CONFIG`"
                    )
                time.sleep(POLL_SECONDS)
                before, waiting = waiting, silent()
                bar.advance(len(before) - len(waiting))
        return self.servers

    async def _connect(self, server: Server) -> str:
        """How this server takes weights; a `UserError` when it is none that this run can use."""
        try:
            async with new_client() as client:
                return await check_server(client, server, self.engine_config, self.served)
        except RequestFailed as failure:
            raise UserError(f"vLLM at {server.url}: {failure}") from failure

    def sync(self, policy: PolicyWeights) -> None:
        """Give all servers the policy's weights and a version; nothing that older ones computed is used again.

        Raises:
            UserError: they did not arrive.
        """
        self.syncs += 1
        self._share_losses()
        tensors = policy.export() if self.nccl is None else iter(())
        with self._together(tensors):
            if self.nccl is not None:
                self._send_by_nccl(policy)
            elif self.world.rank == 0:
                send_by_files(tensors, self.servers, Path(self.config.folder), self.version)
        self._share_losses()

    @contextmanager
    def _together(self, tensors: Iterable[Any] = ()) -> Iterator[None]:
        """A `UserError` here in one process is one in all, which first go through what they have to gather together."""
        failure = ""
        try:
            yield
        except UserError as error:
            failure = str(error)
        for _ in tensors:
            pass
        for failed in self.world.gather(failure):
            if failed:
                raise UserError(failed)

    def _send_by_nccl(self, policy: PolicyWeights) -> None:
        """All processes go through the weights once for each server: they must agree on which are there."""
        with self._together():
            if self.world.rank == 0:
                pause(self.servers)
        self._share_losses()
        self.nccl.send(policy, self.servers)
        if self.world.rank == 0:
            post_all(self.servers, "/update_weight_version", {"new_version": self.version})
            resume(self.servers, self.version)

    def _share_losses(self) -> None:
        """A server that one process has lost gets no more weights, so none may use it."""
        everyone = self.world.gather({s.url: s.left_out for s in self.servers if s.left_out})
        for lost in everyone:
            for server in self.servers:
                if server.url in lost:
                    server.leave_out(lost[server.url])

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, step: int, heard: Heard | None = None
    ) -> list[Group]:
        """One group of `sampling.group_size` completions per prompt, in the order of the prompts.

        Raises:
            UserError: vLLM cannot sample so; no server is left, one refuses a request, or has other weights than those
            of the last sync.
        """
        check_sampling(sampling)
        groups: dict[int, Group] = {}

        async def ask(client: AsyncClient, server: Server, index: int) -> None:
            prompt = prompts[index]
            body = {"token_ids": list(prompt.token_ids), "return_token_ids": True}
            body["sampling_params"] = parameters(prompt, sampling, self.served.end_ids, seed, step)
            tokens = len(prompt.token_ids) + sampling.group_size * sampling.max_tokens
            answer = await server.post(client, GENERATE, body, self.config.retries, tokens=tokens)
            groups[index] = self._group(server, prompt, sampling, answer, step)
            groups[index].tell(heard)

        # No more than a server computes at a time: a request that waits there would seem to hang.
        width = max(1, self.engine_config.max_rows // (sampling.group_size * self.world.size))
        while waiting := deque(index for index in range(len(prompts)) if index not in groups):
            self._sampling.run(self._round(waiting, width, ask))
        return [groups[index] for index in range(len(prompts))]

    async def _round(self, waiting: deque[int], width: int, ask: Ask) -> None:
        """All live servers take what waits, at most `width` at a time. What a server that is lost had taken waits
        again."""
        there = live(self.servers)
        width = min(width, -(-len(waiting) // len(there)))

        async def work(server: Server, taken: set[int]) -> None:
            while waiting and server.left_out is None:
                index = waiting.popleft()
                taken.add(index)
                await ask(client, server, index)
                taken.remove(index)

        async def use(server: Server) -> None:
            # Not a TaskGroup: a signal that is raised inside a task would break its cleaning up off.
            taken: set[int] = set()
            tasks = [asyncio.create_task(work(server, taken)) for _ in range(width)]
            _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in pending:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            errors = [error for error in outcomes if error is not None]
            for error in errors:
                if not isinstance(error, (RequestFailed, asyncio.CancelledError)):
                    raise error
            waiting.extend(sorted(taken))
            for error in errors:
                if isinstance(error, RequestFailed):
                    server.leave_out(str(error))

        async with new_client() as client:
            await asyncio.gather(*(use(server) for server in there))

    def _group(self, server: Server, prompt: Prompt, sampling: Sampling, answer: Any, step: int) -> Group:
        """A `RequestFailed` when the answer is not one of vLLM's."""
        try:
            if tuple(answer["prompt_token_ids"]) != prompt.token_ids:
                raise ValueError(f"it answers another prompt than '{prompt.id}'")
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            if [choice["index"] for choice in choices] != list(range(sampling.group_size)):
                raise ValueError(f"{len(choices)} completions of {sampling.group_size}")
            return Group(prompt, tuple(Rollout(self._completion(server, choice, step)) for choice in choices))
        except (ValueError, TypeError, KeyError) as error:
            raise RequestFailed(f"not an answer of vLLM: {type(error).__name__}: {error}", status=200) from error

    def _completion(self, server: Server, choice: dict[str, Any], step: int) -> Completion:
        versions = {span["version"] for span in choice["weight_versions"]}
        if versions != {self.version}:
            raise UserError(
                f"vLLM at {server.url} sampled with weights of version {', '.join(sorted(versions))}, not with "
                f"those of this run's last sync ({self.version}): was it started again, or does another run use it?"
            )
        reason: FinishReason = choice["finish_reason"]
        if reason not in ("stop", "length"):
            raise UserError(f"vLLM at {server.url} ended a completion with '{reason}': does another run use it?")
        ids = tuple(choice["token_ids"])
        content = choice["logprobs"]["content"]
        if tuple(entry["token_id"] for entry in content) != ids:
            raise ValueError("its log-probs are not those of the sampled tokens")
        text = completion_text(self.served.tokenizer, ids, self.served.end_ids)
        return Completion(ids, tuple(float(entry["logprob"]) for entry in content), reason, text, step)

    def release(self) -> None:
        """Their memory is their own."""

    def close(self) -> None:
        """The servers go on; what they are asked for is not waited for."""
        self._sampling.close()
        if self.nccl is not None:
            self.nccl.close()
