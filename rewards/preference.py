"""A trained reward model as a reward function."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from grpo.config.engine import RuntimeConfig
from grpo.data.conversations import Part
from grpo.data.templates import turn_end
from grpo.errors import UserError
from grpo.model.loading.device import pick_device
from grpo.model.loading.tokenizer import load_tokenizer
from grpo.supervised.reward_reader import load_reward_model, read_rewards, response_ids
from rewards.rows import applying_rows, check_applies_to

Device = Literal["auto", "cpu", "cuda", "mps"]


class RewardModel:
    """`{fn: reward_model, kwargs: {model: runs/tiny/reward-helpfulness/model, part: answer}}`

    Args:
        model: folder or hub name of a sequence classifier with one output, such as our reward stages leave.
        part: `answer` reads only what follows `</think>`, `response` the whole completion.
        squash: `sigmoid` maps the score to (0, 1); `none` returns it as it is.
        applies_to: `{column: kind, values: [...]}`; None for rows whose column holds another value.
        device: where it runs; the RL stages give it `runtime.device`.
    """

    def __init__(
        self,
        model: str,
        part: Part = "response",
        squash: Literal["sigmoid", "none"] = "sigmoid",
        batch_size: int = 64,
        applies_to: Mapping[str, Any] | None = None,
        device: Device = "auto",
    ) -> None:
        if part not in ("answer", "response"):
            raise UserError(f"reward_model: part '{part}'; use answer or response")
        if squash not in ("sigmoid", "none"):
            raise UserError(f"reward_model: squash '{squash}'; use sigmoid or none")
        check_applies_to(applies_to, "reward_model: ")
        if device not in get_args(Device):
            raise UserError(f"reward_model: device '{device}'; use {', '.join(get_args(Device))}")
        self.path, self.part, self.squash, self.batch_size = model, part, squash, batch_size
        self.applies_to, self.device = applies_to, device
        self._loaded: tuple[Any, Any, int] | None = None

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
        rows = applying_rows("reward_model", self.applies_to, len(prompts), columns)
        values: list[float | None] = [None] * len(prompts)
        if not rows:
            return values
        model, tokenizer, end = self._load()
        begun = columns.get("prefill") or [""] * len(prompts)
        ids = [
            response_ids(tokenizer, prompts[row], completions[row], self.part, end, begun[row] or "") for row in rows
        ]
        for row, score in zip(rows, read_rewards(model, ids, tokenizer.pad_token_id, self.batch_size), strict=True):
            values[row] = 0.5 * (1.0 + math.tanh(score / 2.0)) if self.squash == "sigmoid" else score
        return values

    def _load(self) -> tuple[Any, Any, int]:
        """On first use: the model may be made by an earlier stage of the same run."""
        if self._loaded is None:
            tokenizer = load_tokenizer(self.path)
            model = load_reward_model(self.path, tokenizer, pick_device(RuntimeConfig(device=self.device)))
            self._loaded = (model, tokenizer, turn_end(tokenizer)[0])
        return self._loaded
