"""How a reward model reads and scores a response: the same at training and at use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from grpo.data.conversations import Part, response_text
from grpo.data.messages import as_turns
from grpo.data.rendering import render
from grpo.model.loading.classifier import load_classifier
from grpo.model.loading.weights import with_whole_attention


def response_ids(tokenizer: Any, prompt: Any, completion: Any, part: Part, end: int, prefill: str = "") -> list[int]:
    """Prompt through the chat template, the response (see `response_text`), and the end token, on which the score is
    read."""
    opened = render(tokenizer, as_turns(prompt, "user", "prompt"), open_answer=True)
    prompt_ids = tokenizer(opened, add_special_tokens=False)["input_ids"]
    response = response_text(completion, part, prefill)
    return prompt_ids + tokenizer(response, add_special_tokens=False)["input_ids"] + [end]


def load_reward_model(path: str, tokenizer: Any, device: torch.device, *, new_head: bool = False) -> Any:
    """A sequence classifier with one output; `new_head`: a causal LM gets a random one, to be trained.

    Raises:
        UserError: it cannot be loaded whole, or has another head.
    """
    model = load_classifier(path, new_head=new_head)
    # The classifier reads its score at the last token that is not padding.
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return with_whole_attention(model).to(device)


@torch.no_grad()
def read_rewards(model: Any, rows: Sequence[list[int]], pad: int, batch_size: int) -> list[float]:
    """Scores of token sequences, in order; batches of similar length, right-padded.

    The same sequence gets the same score, to the bit: rows of one product are not rounded alike, and a group of equal
    completions would seem to hold a better one.
    """
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    scores: dict[tuple[int, ...], float] = {}
    model.eval()
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        ids, mask = (tensor.to(model.device) for tensor in padded([rows[row] for row in batch], pad))
        values = model(input_ids=ids, attention_mask=mask).logits[:, 0].float().tolist()
        for row, value in zip(batch, values, strict=True):
            scores.setdefault(tuple(rows[row]), value)
    return [scores[tuple(row)] for row in rows]


def padded(rows: Sequence[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their attention mask, both [B, T]."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    return ids, (torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]).long()
