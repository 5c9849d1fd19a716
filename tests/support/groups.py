"""Prompts, and groups with the rewards one needs."""

import random
from collections.abc import Sequence

from grpo.types import Completion, Group, Prompt, Rollout
from support.models import SPECIAL, VOCAB_SIZE


def prompt_of(ids: Sequence[int], name: str = "p", task: str = "default") -> Prompt:
    return Prompt(id=name, token_ids=tuple(ids), text="", task=task)


def random_prompts(count: int, seed: int = 0, low: int = 2, high: int = 14) -> list[Prompt]:
    """Prompts of different lengths, without end tokens."""
    rng = random.Random(seed)
    return [
        prompt_of([rng.randrange(len(SPECIAL), VOCAB_SIZE) for _ in range(rng.randrange(low, high))], f"p{i}")
        for i in range(count)
    ]


def texts_of(prompt: Prompt, *texts: str) -> Group:
    """A group with these texts, not judged yet."""
    return Group(prompt, tuple(Rollout(Completion((1,), (0.0,), "stop", text)) for text in texts))


def group_of(prompt: Prompt, rewards: Sequence[float | None], ids: Sequence[Sequence[int]] | None = None) -> Group:
    """A group with these rewards; completions of one token each unless given."""
    tokens = ids or [(9,)] * len(rewards)
    return Group(
        prompt,
        tuple(
            Rollout(Completion(tuple(t), (0.0,) * len(t), "stop", ""), {"r": r}, r)
            for t, r in zip(tokens, rewards, strict=True)
        ),
    )
