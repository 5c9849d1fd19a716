"""The embedded engine: samples groups from the transformers model that is being trained. The default, CPU or GPU.

Continuous batching: as completions finish, the next ones take their slots. Prompts go through the model once each.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grpo.config.inert import check_stop
from grpo.engines.draws import draw, stream_key, uniforms
from grpo.engines.local.attention import own_attention, why_not_replaced
from grpo.engines.local.decoder import Decoder, Ints, survivors
from grpo.engines.local.fused import fused_layers
from grpo.engines.local.plain import Finish, complete
from grpo.model.loading.tokenizer import completion_text, end_token_ids
from grpo.types import Completion, Group, Heard, PolicyWeights, Prompt, Rollout, Sampling

TURNOVER = 1 / 16  # of the running completions have finished: then their slots are given on, or closed
PREFILL_TOKENS = 8192  # prompt tokens in one forward


class LocalEngine:
    """Samples from `model` as it is now. When that is the policy's own (`shared`), `sync` has nothing to copy."""

    def __init__(self, model: Any, tokenizer: Any, max_rows: int, *, shared: bool = True):
        self.model, self.tokenizer, self.max_rows, self.shared = model, tokenizer, max_rows, shared
        self.end_ids = end_token_ids(model, tokenizer)
        self.reason = why_not_replaced(model)  # to sample by the model's own `generate`

    @torch.no_grad()
    def sync(self, policy: PolicyWeights) -> None:
        """Take over the policy's weights, unless they are shared."""
        if self.shared:
            return
        weights = self.model.state_dict()
        for name, tensor in policy.tensors():
            weights[name].copy_(tensor)

    def release(self) -> None:
        """Nothing is held that the trainer could use."""

    def close(self) -> None:
        """Nothing is held beyond the model."""

    @torch.no_grad()  # not inference mode: autocast keeps no half-precision weights in it
    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, step: int, heard: Heard | None = None
    ) -> list[Group]:
        """One group of `sampling.group_size` completions per prompt, in the order of the prompts.

        Raises:
            UserError: `sampling.stop`, which this engine does not look for.
        """
        check_stop(sampling.stop, "local")
        return self.sample(prompts, sampling, seed, step, heard)

    def sample(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, step: int, heard: Heard | None = None
    ) -> list[Group]:
        """What `generate` gives; also of prompts that try the engine out."""
        size = sampling.group_size
        keys = np.array(
            [stream_key(seed, step, p.task, p.id, sibling) for p in prompts for sibling in range(size)], np.uint64
        )
        done: dict[int, Rollout] = {}

        def finish(row: int, token_ids: list[int], logprobs: list[float]) -> None:
            done[row] = self._rollout(token_ids, logprobs, step)
            if heard is not None:
                heard(prompts[row // size], row % size, done[row])

        if self.reason is None:
            self._decode(prompts, sampling, keys, finish)
        else:
            complete(self.model, prompts, sampling, keys, self.end_ids, self.max_rows, finish)
        groups = (range(start, start + size) for start in range(0, len(keys), size))
        return [Group(p, tuple(done[row] for row in rows)) for p, rows in zip(prompts, groups, strict=True)]

    def _decode(self, prompts: Sequence[Prompt], sampling: Sampling, keys: np.ndarray, finish: Finish) -> None:
        decoder = Decoder(self.model, min(self.max_rows, len(keys)), sampling.max_tokens)
        with own_attention(self.model), fused_layers(self.model):
            batch = _Batch(decoder, prompts, sampling, keys, self.end_ids, finish)
            while batch.refill():
                batch.advance()

    def _rollout(self, token_ids: list[int], logprobs: list[float], version: int) -> Rollout:
        text = completion_text(self.tokenizer, token_ids, self.end_ids)
        stopped = token_ids[-1] in self.end_ids
        return Rollout(Completion(tuple(token_ids), tuple(logprobs), "stop" if stopped else "length", text, version))


def usual_rows(rows: int) -> int:
    """The next number with no more than 5 significant bits: at most 1/16 more, and 16 different ones per octave."""
    spacing = 1 << max(0, rows.bit_length() - 5)
    return -(-rows // spacing) * spacing


class _Batch:
    """The completions of one call: those in slots, those that wait for one; `finish` takes those that are done.

    A completion's number is prompt * group size + sibling. Its first token is drawn when its prompt comes in, from the
    same logits as its siblings'; it then waits for a slot, if need be.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        keys: np.ndarray,
        end_ids: Sequence[int],
        finish: Finish,
    ):
        """`keys`: of each completion's random stream."""
        self.decoder, self.prompts, self.sampling, self.keys = decoder, prompts, sampling, keys
        self.end_ids = torch.tensor(end_ids, device=decoder.device)
        # Longest first: the cache of the prompts has its width from the start, and neighbours are of similar length.
        self.queue = deque(sorted(range(len(prompts)), key=lambda index: -len(prompts[index].token_ids)))
        self.lines: list[int] = []  # prompt on each of the decoder's lines
        self.waiting: deque[tuple[int, int, float]] = deque()  # completion, first token, its log-prob
        self.finish = finish
        self.rows = np.zeros(0, np.int64)  # completion in each slot
        self.drawn = np.zeros(0, np.int64)  # tokens of it
        self.running = np.zeros(0, bool)
        # One column more than the longest completion has: what is drawn for a finished one goes behind its end.
        shape = (decoder.slots, sampling.max_tokens + 1)
        self.tokens = torch.empty(shape, dtype=torch.long, device=decoder.device)
        self.logprobs = torch.empty(shape, dtype=torch.float32, device=decoder.device)

    def refill(self) -> bool:
        """Give slots on when enough completions have finished; False when all are done."""
        finished = len(self.running) - int(self.running.sum())
        if finished < max(1, TURNOVER * len(self.running)) and len(self.running):
            return True
        self._collect()
        self._close_gaps()
        while self.queue and len(self.waiting) < self.decoder.slots - len(self.rows):
            self._prefill()
        self._admit()
        return len(self.rows) > 0

    def advance(self) -> None:
        """One more token for each running completion."""
        slots = torch.arange(len(self.rows), device=self.decoder.device)
        last, column = torch.from_numpy(np.stack([self.drawn - 1, self.drawn])).to(self.decoder.device)
        logits = self.decoder.step(self.tokens[slots, last], self.running)
        tokens, logprobs, ended = self._draw(logits, self.rows, self.drawn)
        self.tokens[slots, column] = tokens
        self.logprobs[slots, column] = logprobs
        self.drawn = self.drawn + self.running
        self.running = self.running & ~ended & (self.drawn < self.sampling.max_tokens)

    def _draw(self, logits: Tensor, rows: Ints, position: Ints) -> tuple[Tensor, Tensor, np.ndarray]:
        """Tokens, log-probs, and which tokens are end tokens."""
        uniform = torch.from_numpy(uniforms(self.keys[rows], position)).to(logits.device)
        tokens, logprobs = draw(logits, uniform, self.sampling.temperature, self.sampling.top_p)
        return tokens, logprobs, torch.isin(tokens, self.end_ids).cpu().numpy()

    def _collect(self) -> None:
        """Read back what has finished."""
        finished = np.flatnonzero(~self.running)
        if not len(finished):
            return
        lengths = self.drawn[finished]
        chosen = torch.from_numpy(finished).to(self.decoder.device)
        columns = int(lengths.max())
        tokens, logprobs = (table[:, :columns][chosen].tolist() for table in (self.tokens, self.logprobs))
        for row, length, ids, values in zip(self.rows[finished].tolist(), lengths, tokens, logprobs, strict=True):
            self.finish(row, ids[:length], values[:length])

    def _close_gaps(self) -> None:
        """Only running completions, and the prompts of those and of waiting ones, stay. And as many finished ones as
        make a number of rows that comes up often: each one new to it costs oneDNN milliseconds."""
        alive = self.running.copy()
        if not self.queue and not self.waiting:
            alive[np.flatnonzero(~alive)[: usual_rows(int(alive.sum())) - int(alive.sum())]] = True
        kept = survivors(alive)
        size = self.sampling.group_size
        needed = {*(self.rows[kept] // size).tolist(), *(row // size for row, _, _ in self.waiting)}
        lines = survivors(np.array([prompt in needed for prompt in self.lines], bool))
        self.decoder.keep(kept, lines)
        moved = np.flatnonzero(kept != np.arange(len(kept)))
        target, source = (torch.from_numpy(x).to(self.decoder.device) for x in (moved, kept[moved]))
        for table in (self.tokens, self.logprobs):
            table[target] = table[source]
        self.lines = [self.lines[line] for line in lines]
        self.rows, self.drawn, self.running = self.rows[kept], self.drawn[kept], self.running[kept]

    def _prefill(self) -> None:
        """Take in as many prompts as fill the free slots, or one forward."""
        size = self.sampling.group_size
        missing = self.decoder.slots - len(self.rows) - len(self.waiting)
        chosen: list[int] = []
        total = 0
        while self.queue and len(chosen) * size < missing:
            total += len(self.prompts[self.queue[0]].token_ids)
            if chosen and total > PREFILL_TOKENS:
                break
            chosen.append(self.queue.popleft())
        logits = self.decoder.prefill([self.prompts[index].token_ids for index in chosen])
        self.lines += chosen
        rows = (np.array(chosen)[:, None] * size + np.arange(size)).ravel()
        tokens, logprobs, ended = self._draw(logits.repeat_interleave(size, 0), rows, np.zeros_like(rows))
        for row, token, logprob, end in zip(rows.tolist(), tokens.tolist(), logprobs.tolist(), ended, strict=True):
            if end or self.sampling.max_tokens == 1:
                self.finish(row, [token], [logprob])
            else:
                self.waiting.append((row, token, logprob))

    def _admit(self) -> None:
        """Waiting completions take the free slots."""
        start = len(self.rows)
        count = min(len(self.waiting), self.decoder.slots - start)
        if not count:
            return
        rows, tokens, logprobs = zip(*(self.waiting.popleft() for _ in range(count)), strict=True)
        self.tokens[start : start + count, 0] = torch.tensor(tokens)
        self.logprobs[start : start + count, 0] = torch.tensor(logprobs)
        line_of = {prompt: line for line, prompt in enumerate(self.lines)}
        self.decoder.admit(np.array([line_of[row // self.sampling.group_size] for row in rows]))
        self.rows = np.concatenate([self.rows, rows])
        self.drawn = np.concatenate([self.drawn, np.ones(count, np.int64)])
        self.running = np.concatenate([self.running, np.ones(count, bool)])
