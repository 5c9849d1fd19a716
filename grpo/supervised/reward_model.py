"""Reward models: pairwise (Bradley-Terry, TRL's RewardTrainer) and pointwise (a classifier with BCE).

Both start from a causal LM's checkpoint with a new scalar head, both read a response through
`grpo.supervised.reward_reader`, as `rewards.preference.RewardModel` does, and both report their accuracy on held-out
prompts.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from grpo.data.conversations import Part
from grpo.data.preferences import read_judged, read_pair
from grpo.data.rows import Row, write_jsonl
from grpo.data.templates import turn_end
from grpo.errors import UserError
from grpo.model.export.folder import save_model
from grpo.model.loading.device import pick_device
from grpo.model.loading.tokenizer import load_tokenizer
from grpo.supervised import Training
from grpo.supervised.reward_reader import load_reward_model, padded, read_rewards, response_ids

log = logging.getLogger("grpo")

HELD_OUT = 0.1


class Pairwise:
    """Bradley-Terry: the chosen answer above the rejected one. Correct: a held-out pair that is."""

    read = staticmethod(read_pair)

    @staticmethod
    def encode(row: Row, ids: Callable[[str], list[int]]) -> Row:
        return {"chosen_ids": ids("chosen"), "rejected_ids": ids("rejected")}

    @staticmethod
    def trainer(tokenizer: Any, arguments: dict[str, Any], **inputs: Any) -> Any:
        from trl import RewardConfig, RewardTrainer

        from grpo.supervised.checkpoints import Saved
        from grpo.supervised.training import on_one_device

        class SavedRewardTrainer(Saved, RewardTrainer):
            pass

        settings = RewardConfig(**arguments, max_length=None)
        return SavedRewardTrainer(args=on_one_device(settings), processing_class=tokenizer, **inputs)

    @staticmethod
    def correct(rows: Sequence[Row], scores: Callable[[str], list[float]]) -> list[bool]:
        pairs = zip(scores("chosen_ids"), scores("rejected_ids"), strict=True)
        return [better > worse for better, worse in pairs]


class Pointwise:
    """BCE on labels: 1 good, 0 bad. Correct: a held-out row on the side of its label."""

    read = staticmethod(read_judged)

    @staticmethod
    def encode(row: Row, ids: Callable[[str], list[int]]) -> Row:
        # Not "labels": the Trainer would count them.
        return {"input_ids": ids("completion"), "targets": row["label"]}

    @staticmethod
    def trainer(tokenizer: Any, arguments: dict[str, Any], **inputs: Any) -> Any:
        from transformers import Trainer, TrainingArguments

        from grpo.supervised.checkpoints import Saved
        from grpo.supervised.training import on_one_device

        class PointwiseTrainer(Saved, Trainer):
            def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> torch.Tensor:
                targets = inputs.pop("targets")
                scores = model(**inputs, use_cache=False).logits[:, 0].float()
                return torch.nn.functional.binary_cross_entropy_with_logits(scores, targets)

        def collate(batch: list[Row]) -> dict[str, torch.Tensor]:
            ids, mask = padded([row["input_ids"] for row in batch], tokenizer.pad_token_id)
            targets = torch.tensor([row["targets"] for row in batch])
            return {"input_ids": ids, "attention_mask": mask, "targets": targets}

        settings = TrainingArguments(**arguments, remove_unused_columns=False)
        return PointwiseTrainer(args=on_one_device(settings), data_collator=collate, **inputs)

    @staticmethod
    def correct(rows: Sequence[Row], scores: Callable[[str], list[float]]) -> list[bool]:
        return [(score > 0) == (row["targets"] > 0.5) for score, row in zip(scores("input_ids"), rows, strict=True)]


Kind = type[Pairwise] | type[Pointwise]


def train_reward_model(
    kind: Kind, model_path: str, rows: Sequence[Row], part: Part, training: Training
) -> dict[str, Any]:
    """Train on rows as `kind.read` takes them; leaves model/. `part`: what of a response the model reads. The
    `accuracy` among the numbers is of held-out prompts."""
    from transformers import set_seed

    from grpo.supervised.training import drop_overlong, fit, settings_restored

    rows = read_rows(kind, rows, training.title)
    tokenizer = load_tokenizer(model_path)
    encoded, held = encode(kind, rows, part, tokenizer, training.title, training.seed)
    fitting = drop_overlong(encoded, length_of, training)
    write_jsonl(training.out / "data" / "preferences.jsonl", rows)
    set_seed(training.seed)  # the new head is random
    model = load_reward_model(model_path, tokenizer, pick_device(training.runtime), new_head=True)
    lengths = [sum(map(len, _sequences(row))) for row in fitting]
    trainer = partial(kind.trainer, tokenizer)
    restore = settings_restored(model)

    def save() -> None:
        restore()
        save_model(model, load_tokenizer(model_path), training.out / "model", dtype=training.runtime.save_dtype)

    numbers = fit(trainer, model, fitting, lengths, training, save, held)
    pad = model.config.get_text_config().pad_token_id
    at_a_time = training.config.micro_batch_size or training.config.batch_size
    hits = kind.correct(held, lambda name: read_rewards(model, [row[name] for row in held], pad, at_a_time))
    return {
        **numbers,
        "examples": len(fitting),
        "dropped": len(encoded) - len(fitting),
        "held_out": len(hits),
        "accuracy": sum(hits) / len(hits),
    }


def read_rows(kind: Kind, rows: Sequence[Row], title: str) -> list[Row]:
    """The rows in the kind's own form.

    Raises:
        UserError: a row lacks what the kind reads.
    """
    return [kind.read(row, f"{title}, row {number}") for number, row in enumerate(rows)]


def encode(
    kind: Kind, rows: Sequence[Row], part: Part, tokenizer: Any, title: str, seed: int
) -> tuple[list[Row], list[Row]]:
    """(training, held-out) rows, of `read_rows`, as token ids, and labels. Pairs whose answers are the same to the
    model, which teach nothing, are left out; how many is said.

    Raises:
        UserError: none is left, or all have the same prompt.
    """
    end = turn_end(tokenizer)[0]

    def encoded(row: Row) -> Row:
        return kind.encode(row, lambda name: response_ids(tokenizer, row["prompt"], row[name], part, end))

    both = [{"prompt": row["prompt"], "encoded": encoded(row)} for row in rows]
    kept = [row for row in both if row["encoded"].get("chosen_ids", ()) != row["encoded"].get("rejected_ids")]
    same = "'chosen' and 'rejected' are the same to the model"
    if not kept:
        raise UserError(f"{title}: in every pair {same}")
    if len(kept) < len(both):
        log.warning("%s: in %d of %d pairs %s: left out", title, len(both) - len(kept), len(both), same)
    training, held = ([row["encoded"] for row in side] for side in split_held_out(kept, seed))
    return training, held


def length_of(row: Row) -> int:
    """Of the longest of an encoded row's responses, with the prompt."""
    return max(map(len, _sequences(row)))


def _sequences(row: Row) -> list[list[int]]:
    return [value for value in row.values() if isinstance(value, list)]


def split_held_out(rows: Sequence[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """(training, held-out) rows, split by prompt so that no held-out prompt was trained on."""
    keys = [json.dumps(row["prompt"], sort_keys=True, ensure_ascii=False) for row in rows]
    prompts = sorted(set(keys))
    random.Random(seed).shuffle(prompts)
    held = set(prompts[: max(1, round(HELD_OUT * len(prompts)))])
    training = [row for row, key in zip(rows, keys, strict=True) if key not in held]
    if not training:
        raise UserError("reward model: at least two different prompts are needed, one of them is held out")
    return training, [row for row, key in zip(rows, keys, strict=True) if key in held]
