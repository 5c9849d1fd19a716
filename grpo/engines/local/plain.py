"""Sampling for models whose attention is not ours to replace: transformers' own `generate` with the model's own cache.

Completions whose prompts are of one length go together, so that nothing is padded. It is slower than the decoder: a
prompt goes through once for each sibling, and all rows are computed until the last one ends.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from grpo.engines.draws import draw, uniforms
from grpo.model.adapter import base_model
from grpo.types import Prompt, Sampling

Finish = Callable[[int, list[int], list[float]], None]  # a completion: its number, tokens and their log-probs


class _Draw(LogitsProcessor):
    """Draws the next tokens by our own random numbers, and leaves `generate` no other choice."""

    def __init__(self, keys: np.ndarray, start: int, sampling: Sampling):
        self.keys, self.start, self.sampling = keys, start, sampling
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        uniform = torch.from_numpy(uniforms(self.keys, input_ids.shape[1] - self.start)).to(scores.device)
        tokens, logprobs = draw(scores.float(), uniform, self.sampling.temperature, self.sampling.top_p)
        self.logprobs.append(logprobs)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens.unsqueeze(1), 0.0)


def complete(
    model: Any,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    keys: np.ndarray,
    end_ids: Sequence[int],
    max_rows: int,
    finish: Finish,
) -> None:
    """All completions; number prompt * group size + sibling has the random stream `keys[number]`."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for number in range(len(keys)):
        by_length[len(prompts[number // sampling.group_size].token_ids)].append(number)
    with _plainly(base_model(model), sampling, end_ids) as plain:
        for length, numbers in sorted(by_length.items(), reverse=True):  # the largest first: memory runs out at once
            for first in range(0, len(numbers), max_rows):
                chosen = numbers[first : first + max_rows]
                ids = torch.tensor([prompts[n // sampling.group_size].token_ids for n in chosen], device=plain.device)
                drawing = _Draw(keys[chosen], length, sampling)
                found = plain.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), logits_processor=LogitsProcessorList([drawing])
                )
                tokens, logprobs = found[:, length:], torch.stack(drawing.logprobs, 1).tolist()
                ended = torch.isin(tokens, torch.tensor(end_ids, device=tokens.device)).long()
                lengths = torch.where(ended.any(1), ended.argmax(1) + 1, tokens.shape[1]).tolist()
                for n, own, values, count in zip(chosen, tokens.tolist(), logprobs, lengths, strict=True):
                    finish(n, own[:count], values[:count])


@contextmanager
def _plainly(model: Any, sampling: Sampling, end_ids: Sequence[int]) -> Iterator[Any]:
    """The model, whose own settings of `generate` (a repetition penalty, say) do nothing meanwhile."""
    before = model.generation_config
    model.generation_config = GenerationConfig(
        max_new_tokens=sampling.max_tokens,
        do_sample=False,
        eos_token_id=list(end_ids),
        pad_token_id=end_ids[0],
        use_cache=True,
    )
    try:
        yield model
    finally:
        model.generation_config = before
