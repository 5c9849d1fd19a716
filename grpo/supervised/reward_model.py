"""Reward models: pairwise (Bradley-Terry, TRL's RewardTrainer) and pointwise (a classifier with BCE).

Both start from a causal LM's checkpoint with a new scalar head, both read a response through
`grpo.supervised.reward_reader`, as `rewards.preference.RewardModel` does, and both report their accuracy on held-out
prompts.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from grpo.config.engine import RuntimeConfig
from grpo.config.training import SFTConfig
from grpo.data.conversations import Part, turn_end
from grpo.data.rows import write_jsonl
from grpo.errors import UserError
from grpo.model.policy import load_tokenizer, pick_device, save_model
from grpo.supervised.reward_reader import load_reward_model, padded, read_rewards, response_ids

HELD_OUT = 0.1
_LABELS: dict[Any, float] = {0: 0.0, 1: 1.0, "unsafe": 0.0, "safe": 1.0}


def split_held_out(rows: Sequence[dict[str, Any]], seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(training, held-out) rows, split by prompt so that no held-out prompt was trained on."""
    keys = [json.dumps(row["prompt"], sort_keys=True, ensure_ascii=False) for row in rows]
    prompts = sorted(set(keys))
    random.Random(seed).shuffle(prompts)
    held = set(prompts[: max(1, round(HELD_OUT * len(prompts)))])
    training = [row for row, key in zip(rows, keys, strict=True) if key not in held]
    if not training:
        raise UserError("reward model: at least two different prompts are needed, one of them is held out")
    return training, [row for row, key in zip(rows, keys, strict=True) if key in held]


def train_pairwise(
    model_path: str,
    rows: Sequence[dict[str, Any]],
    config: SFTConfig,
    out: Path,
    *,
    seed: int,
    runtime: RuntimeConfig,
    part: Part = "answer",
    title: str = "helpfulness model",
) -> dict[str, Any]:
    """Bradley-Terry on rows {prompt, chosen, rejected}; leaves `out/model`. `accuracy`: of held-out pairs."""
    from trl import RewardConfig, RewardTrainer

    from grpo.supervised.checkpoints import Saved
    from grpo.supervised.training import Quiet

    class QuietRewardTrainer(Quiet, Saved, RewardTrainer):
        pass

    _check_columns(rows, ("prompt", "chosen", "rejected"), title)
    tokenizer = load_tokenizer(model_path)
    end = turn_end(tokenizer)[0]

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        chosen, rejected = (response_ids(tokenizer, row["prompt"], row[k], part, end) for k in ("chosen", "rejected"))
        return {"chosen_ids": chosen, "rejected_ids": rejected}

    def trainer(model: Any, data: Any, arguments: dict[str, Any], optimizers: Any) -> Any:
        settings = RewardConfig(**arguments, max_length=None)
        return QuietRewardTrainer(
            model=model, args=settings, train_dataset=data, processing_class=tokenizer, optimizers=optimizers
        )

    def correct(model: Any, held: list[dict[str, Any]]) -> list[bool]:
        chosen, rejected = (_scores(model, held, key, config) for key in ("chosen_ids", "rejected_ids"))
        return [better > worse for better, worse in zip(chosen, rejected, strict=True)]

    return _fit(model_path, tokenizer, rows, encode, trainer, correct, config, out, seed, runtime, title)


def train_pointwise(
    model_path: str,
    rows: Sequence[dict[str, Any]],
    config: SFTConfig,
    out: Path,
    *,
    seed: int,
    runtime: RuntimeConfig,
    part: Part = "response",
    title: str = "safety model",
) -> dict[str, Any]:
    """BCE on rows {prompt, completion, label: 1 good, 0 bad}; leaves `out/model`. `accuracy`: of held-out rows."""
    from transformers import Trainer, TrainingArguments

    from grpo.supervised.checkpoints import Saved

    class PointwiseTrainer(Saved, Trainer):
        def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> torch.Tensor:
            targets = inputs.pop("targets")
            scores = model(**inputs, use_cache=False).logits[:, 0].float()
            return torch.nn.functional.binary_cross_entropy_with_logits(scores, targets)

    _check_columns(rows, ("prompt", "completion", "label"), title)
    _check_labels(rows, title)
    tokenizer = load_tokenizer(model_path)
    end = turn_end(tokenizer)[0]

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        ids = response_ids(tokenizer, row["prompt"], row["completion"], part, end)
        return {"input_ids": ids, "targets": _LABELS[row["label"]]}  # not "labels": the Trainer would count them

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids, mask = padded([row["input_ids"] for row in batch], tokenizer.pad_token_id)
        return {"input_ids": ids, "attention_mask": mask, "targets": torch.tensor([row["targets"] for row in batch])}

    def trainer(model: Any, data: Any, arguments: dict[str, Any], optimizers: Any) -> Any:
        settings = TrainingArguments(**arguments, remove_unused_columns=False)
        return PointwiseTrainer(
            model=model, args=settings, train_dataset=data, data_collator=collate, optimizers=optimizers
        )

    def correct(model: Any, held: list[dict[str, Any]]) -> list[bool]:
        scores = _scores(model, held, "input_ids", config)
        return [(score > 0) == (row["targets"] > 0.5) for score, row in zip(scores, held, strict=True)]

    return _fit(model_path, tokenizer, rows, encode, trainer, correct, config, out, seed, runtime, title)


def _fit(
    model_path: str,
    tokenizer: Any,
    rows: Sequence[dict[str, Any]],
    encode: Callable[[dict[str, Any]], dict[str, Any]],
    make_trainer: Callable[[Any, Any, dict[str, Any], Any], Any],
    correct: Callable[[Any, list[dict[str, Any]]], list[bool]],
    config: SFTConfig,
    out: Path,
    seed: int,
    runtime: RuntimeConfig,
    title: str,
) -> dict[str, Any]:
    """What both kinds share: split, encode, drop the over-long, train, save, measure on the held-out rows."""
    from transformers import set_seed

    from grpo.supervised.training import drop_overlong, fit

    training, held = ([encode(row) for row in part] for part in split_held_out(rows, seed))
    fitting = drop_overlong(training, lambda row: max(map(len, _sequences(row))), config.max_tokens, title)
    write_jsonl(out / "data" / "preferences.jsonl", rows)
    set_seed(seed)  # the new head is random
    model = load_reward_model(model_path, tokenizer, pick_device(runtime))
    lengths = [sum(map(len, _sequences(row))) for row in fitting]
    trainer = partial(make_trainer, model)
    numbers = fit(trainer, model, fitting, lengths, config, out, seed=seed, runtime=runtime, title=title)
    save_model(model, tokenizer, out / "model")
    hits = correct(model, held)
    return {
        **numbers,
        "examples": len(fitting),
        "dropped": len(training) - len(fitting),
        "held_out": len(hits),
        "accuracy": sum(hits) / len(hits),
    }


def _sequences(row: dict[str, Any]) -> list[list[int]]:
    return [value for value in row.values() if isinstance(value, list)]


def _scores(model: Any, rows: list[dict[str, Any]], key: str, config: SFTConfig) -> list[float]:
    pad = model.config.get_text_config().pad_token_id
    return read_rewards(model, [row[key] for row in rows], pad, config.micro_batch_size or config.batch_size)


def _check_columns(rows: Sequence[dict[str, Any]], columns: tuple[str, ...], title: str) -> None:
    for number, row in enumerate(rows):
        missing = [column for column in columns if row.get(column) is None]
        if missing:
            raise UserError(f"{title}, row {number}: column '{missing[0]}' is missing; rows need {', '.join(columns)}")


def _check_labels(rows: Sequence[dict[str, Any]], title: str) -> None:
    for number, row in enumerate(rows):
        if row["label"] not in _LABELS:
            message = f"{title}, row {number}: label {row['label']!r}; use 1 or 0, true or false, safe or unsafe"
            raise UserError(message)
