"""Supervised training on TRL's SFTTrainer: assistant tokens and their end token, nothing else."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from grpo.data.conversations import build_examples
from grpo.data.encoding import IGNORE, Example, last_trained
from grpo.data.rows import Row, write_jsonl
from grpo.errors import UserError
from grpo.model.export.folder import save_model
from grpo.model.loading.device import pick_device
from grpo.model.loading.limits import check_special, embeddings
from grpo.model.loading.tokenizer import load_tokenizer
from grpo.model.loading.weights import load_model
from grpo.supervised import Training


def supervised(model_path: str, rows: Sequence[Row], training: Training) -> dict[str, Any]:
    """Fine-tune `model_path` on conversations; leaves model/, metrics.jsonl and data/sft.jsonl.

    Returns numbers for a manifest: steps, loss (mean of the last 20 steps), tokens, seconds, examples, dropped.
    """
    from grpo.supervised.training import drop_overlong

    tokenizer = load_tokenizer(model_path)
    everything = build_examples(rows, tokenizer, training.title)
    examples = drop_overlong(everything, lambda example: len(example.input_ids), training)
    write_jsonl(training.out / "data" / "sft.jsonl", rows)
    model = load_model(model_path, pick_device(training.runtime))
    check_special(tokenizer, embeddings(model), model.generation_config.eos_token_id)
    for token in last_trained(examples):
        add_end_token(model, token)
    numbers = train_on_tokens(model, tokenizer, examples, training)
    return {**numbers, "examples": len(examples), "dropped": len(everything) - len(examples)}


def add_end_token(model: Any, token: int) -> None:
    """Make `token` stop generation too: a base model often stops at other tokens than its template's end of turn."""
    configured = model.generation_config.eos_token_id
    stops = [] if configured is None else configured if isinstance(configured, list) else [configured]
    model.generation_config.eos_token_id = list(dict.fromkeys([*stops, token]))


def train_on_tokens(model: Any, tokenizer: Any, examples: Sequence[Example], training: Training) -> dict[str, Any]:
    """The training itself, in place, on ids and labels; the loss is the mean over all trained tokens of a step. Leaves
    model/."""
    from transformers import Trainer
    from trl import SFTConfig as TrlConfig
    from trl import SFTTrainer

    from grpo.supervised.checkpoints import Saved
    from grpo.supervised.training import fit, on_one_device, settings_restored

    class SavedSFTTrainer(Saved, SFTTrainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            """On a CPU the model's own loss, without a mask: TRL's saves memory on a GPU, but here it takes longer.

            Rows are right-padded, so causal attention keeps the padding out by itself.
            """
            if self.accelerator.device.type != "cpu" or self.aux_loss_enabled:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            inputs = {name: value for name, value in inputs.items() if name != "attention_mask"}
            return Trainer.compute_loss(self, model, {**inputs, "use_cache": False}, return_outputs, num_items_in_batch)

    if not any(label != IGNORE for example in examples for label in example.labels):
        raise UserError(f"{training.title}: no token to train on")
    lengths = [len(example.input_ids) for example in examples]
    rows = [{"input_ids": example.input_ids, "labels": example.labels} for example in examples]

    def trainer(arguments: dict[str, Any], **inputs: Any) -> Any:
        own = {"max_length": None, "router_aux_loss_coef": training.config.router_loss}
        settings = TrlConfig(**arguments, **own, dataset_kwargs={"skip_prepare_dataset": True})
        mine = copy.deepcopy(tokenizer)  # TRL gives it a pad token
        return SavedSFTTrainer(args=on_one_device(settings), processing_class=mine, **inputs)

    if training.config.router_loss and not has_router(model):
        problem = f"{training.title}: 'router_loss' has no effect"
        raise UserError(f"{problem}: {type(model).__name__} has no experts that its loss could spread; remove it")
    restore = settings_restored(model)

    def save() -> None:
        model.__dict__.pop("forward", None)  # TRL's patched forward belongs to its trainer
        restore()
        save_model(model, tokenizer, training.out / "model", dtype=training.runtime.save_dtype)

    return fit(trainer, model, rows, lengths, training, save)


@torch.no_grad()
def has_router(model: Any) -> bool:
    """Whether its forward gives the loss of a router. A dense Granite 4 has settings for one, and no experts."""
    if not hasattr(model.config.get_text_config(), "output_router_logits"):
        return False
    tokens = torch.arange(1, 9, device=model.device).unsqueeze(0)
    try:
        output = model(input_ids=tokens, output_router_logits=True, use_cache=False)
    except Exception:  # noqa: BLE001 - an IndexError in Granite's case
        return False
    return isinstance(getattr(output, "aux_loss", None), torch.Tensor)
