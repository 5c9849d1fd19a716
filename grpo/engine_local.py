"""The embedded engine: samples groups from the transformers model that is being trained. The default, CPU or GPU.

One prefill per prompt, shared by its siblings; a cache allocated ahead; finished rows are retired from the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from grpo.errors import UserError
from grpo.kv_cache import RoomyCache
from grpo.policy import end_token_ids
from grpo.sampler_rng import stream_key, uniforms
from grpo.types import Completion, FinishReason, Group, PolicyWeights, Prompt, Rollout, Sampling

RETIRE_BELOW = 0.75  # of the rows still running: then the finished ones are taken out (a copy of the cache)
ROOM = 128  # columns the cache has free when allocated


@dataclass
class _Row:
    """One completion being sampled."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False


class LocalEngine:
    """Samples from `model` as it is now. When that is the policy's own (`shared`), `sync` has nothing to copy."""

    def __init__(self, model: Any, tokenizer: Any, max_rows: int, *, shared: bool = True):
        self.model = model
        self.tokenizer = tokenizer
        self.max_rows = max_rows
        self.shared = shared
        self.end_ids = end_token_ids(model, tokenizer)

    @torch.no_grad()
    def sync(self, policy: PolicyWeights) -> None:
        """Take over the policy's weights, unless they are shared."""
        if self.shared:
            return
        own = self.model.state_dict()
        for name, tensor in policy.export():
            own[name].copy_(tensor)

    def release(self) -> None:
        """Nothing is held that the trainer could use."""

    def close(self) -> None:
        """Nothing is held beyond the model."""

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, step: int) -> list[Group]:
        """One group of `sampling.group_size` completions per prompt, in the order of the prompts.

        Raises:
            UserError: `sampling.stop`, which this engine does not look for.
        """
        if sampling.stop:
            raise UserError("sampling.stop: the embedded engine ends at end tokens only; use engine=vllm or remove it")
        by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index].token_ids))
        at_a_time = max(1, self.max_rows // sampling.group_size)
        groups: dict[int, Group] = {}
        for start in range(0, len(prompts), at_a_time):
            chosen = by_length[start : start + at_a_time]
            batch = [prompts[index] for index in chosen]
            for index, group in zip(chosen, self._generate(batch, sampling, seed, step), strict=True):
                groups[index] = group
        return [groups[index] for index in range(len(prompts))]

    def _generate(self, prompts: list[Prompt], sampling: Sampling, seed: int, step: int) -> list[Group]:
        size = sampling.group_size
        keys = np.array(
            [stream_key(seed, step, p.task, p.id, sibling) for p in prompts for sibling in range(size)], np.uint64
        )
        rows = [_Row() for _ in keys]
        decoder = _Decoder(self.model, prompts, size)
        active = np.arange(len(rows))  # row number of each line of the decoder's batch
        for position in range(sampling.max_tokens):
            draws = torch.from_numpy(uniforms(keys[active], position)).to(decoder.logits.device)
            tokens, logprobs = draw(decoder.logits, draws, sampling.temperature, sampling.top_p)
            for line, token, logprob in zip(active, tokens.tolist(), logprobs.tolist(), strict=True):
                if not rows[line].finished:
                    rows[line].token_ids.append(token)
                    rows[line].logprobs.append(logprob)
                    rows[line].finished = token in self.end_ids
            running = np.array([not rows[line].finished for line in active])
            if not running.any() or position == sampling.max_tokens - 1:
                break
            if running.mean() < RETIRE_BELOW:
                keep = torch.from_numpy(running.nonzero()[0]).to(tokens.device)
                decoder.retire(keep)
                tokens, active = tokens[keep], active[running]
            decoder.advance(tokens)
        return [
            Group(prompt, tuple(self._rollout(row, step) for row in rows[i * size : (i + 1) * size]))
            for i, prompt in enumerate(prompts)
        ]

    def _rollout(self, row: _Row, version: int) -> Rollout:
        text = self.tokenizer.decode(row.token_ids, skip_special_tokens=True)
        reason: FinishReason = "stop" if row.finished else "length"
        return Rollout(Completion(tuple(row.token_ids), tuple(row.logprobs), reason, text, version))


class _Decoder:
    """The model's state for a batch of rows: cache, mask, positions, and the logits of the next token [rows, V]."""

    def __init__(self, model: Any, prompts: list[Prompt], group_size: int):
        self.model = model
        device = next(model.parameters()).device
        lengths = torch.tensor([len(prompt.token_ids) for prompt in prompts], device=device)
        width = int(lengths.max())
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):  # left-padded, so that all rows write the same cache column
            ids[row, width - len(prompt.token_ids) :] = torch.tensor(prompt.token_ids)
        self.mask = (torch.arange(width, device=device) >= (width - lengths).unsqueeze(1)).long()
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
        self.cache = RoomyCache(model.config.num_hidden_layers, ROOM)
        self._forward(ids.to(device), positions)
        siblings = torch.arange(len(prompts), device=device).repeat_interleave(group_size)
        self.next_position = lengths.unsqueeze(1)
        self.retire(siblings)

    def _forward(self, token_ids: torch.Tensor, positions: torch.Tensor) -> None:
        output = self.model(
            input_ids=token_ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.logits = output.logits[:, -1].float()

    def retire(self, keep: torch.Tensor) -> None:
        """Go on with these rows only (repeated ones are copied)."""
        self.cache.take_rows(keep)
        self.mask, self.next_position, self.logits = self.mask[keep], self.next_position[keep], self.logits[keep]

    def advance(self, tokens: torch.Tensor) -> None:
        """Feed the tokens [rows] just drawn."""
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        self._forward(tokens.unsqueeze(1), self.next_position)
        self.next_position = self.next_position + 1


def draw(
    logits: Float[Tensor, "R V"], uniform: Float[Tensor, " R"], temperature: float, top_p: float
) -> tuple[Int64[Tensor, " R"], Float[Tensor, " R"]]:
    """Tokens drawn by inverting the cumulative distribution at `uniform` in (0, 1), one for each of R rows.

    The log-probs are those of the distribution drawn from, before top-p. Temperature 0 is greedy, and its
    log-probs are those at temperature 1.
    """
    scaled = logits if temperature == 0 else logits / temperature
    logprobs = scaled.log_softmax(-1)
    if temperature == 0:
        tokens = logits.argmax(-1)
    else:
        probabilities = logprobs.exp()
        if top_p < 1:
            probabilities = keep_top_p(probabilities, top_p)
        cumulative = probabilities.cumsum(-1)
        target = (uniform * cumulative[:, -1]).to(cumulative.dtype)
        tokens = torch.searchsorted(cumulative, target.unsqueeze(-1)).squeeze(-1).clamp(max=logits.shape[-1] - 1)
    return tokens, logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def keep_top_p(probabilities: Float[Tensor, "R V"], top_p: float) -> Float[Tensor, "R V"]:
    """Zero all but the smallest set of most likely tokens whose mass reaches `top_p`."""
    ordered, index = probabilities.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(probabilities).scatter(-1, index, torch.where(before < top_p, ordered, 0.0))
