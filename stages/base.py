"""Stage 0, the base model: an existing one, or one trained from scratch on a plain-text corpus (the tiny world's)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from grpo.config.training import SFTConfig
from grpo.data.baked import give_template
from grpo.data.encoding import Example
from grpo.data.rows import Row, load_rows, rows_hash
from grpo.errors import UserError
from grpo.model.export.folder import save_model
from grpo.model.loading.device import pick_device
from grpo.model.loading.limits import check_special, embeddings
from grpo.model.loading.tokenizer import load_tokenizer
from grpo.model.loading.weights import load_model
from grpo.supervised import Training
from grpo.supervised.sft import train_on_tokens
from stages.commands.run import stage_main
from stages.recipe.ahead import Ahead, check_places
from stages.recipe.config import BaseConfig, PretrainConfig
from stages.recipe.machine import machine_checks
from stages.recipe.preflight import base_checks
from stages.recipe.table import StageContext, active_stages
from stages.tiny_world.tokenizer import DOCUMENT_END, build_tokenizer, model_config


def run(context: StageContext) -> dict[str, Any]:
    """Leaves model/; from scratch also metrics.jsonl and data/corpus.jsonl."""
    config: BaseConfig = context.section
    return _pretrain(config, context) if config.model is None else _adopt(config.model, config, context)


def _adopt(model: str, config: BaseConfig, context: StageContext) -> dict[str, Any]:
    """An existing model becomes the run's own copy, so that the run stays whole when the original moves."""
    tokenizer = give_template(load_tokenizer(model), config.chat_template, config.template_kwargs)
    loaded = load_model(model, pick_device(context.config.runtime))
    if context.key == "base" and not Path(model).exists():  # fetched meanwhile: asked as one that was here before
        later = [stage.key for stage in active_stages(context.config)]
        for _, check in [*machine_checks(context.config, later), *base_checks(context.config)]:
            check()
        check_places(context.config, [*later, "evaluation"], Ahead(context.folder.parent), model, given=False)
    check_special(tokenizer, embeddings(loaded), loaded.generation_config.eos_token_id)
    save_model(loaded, tokenizer, context.folder / "model", dtype=context.config.runtime.save_dtype)
    return {"source": model, "parameters": loaded.num_parameters(), "tokens": 0}


def _pretrain(config: BaseConfig, context: StageContext) -> dict[str, Any]:
    settings, seed, runtime = config.pretrain, context.config.seed, context.config.runtime
    assert settings is not None
    rows = load_rows(settings.corpus)
    rows = context.write_data("corpus", rows)
    texts = _texts(rows, f"{context.key}.pretrain.corpus")
    tokenizer = build_tokenizer(texts, settings.vocab_size)
    examples = documents(texts, tokenizer, settings.max_tokens)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(architecture(settings, len(tokenizer))).to(pick_device(runtime))
    # A document's end stops sampling as well: R1-Zero goes straight from here to RL, without a chat template.
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(DOCUMENT_END)]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    # The same training loop, on documents in which every token counts.
    shared = ("batch_size", "micro_batch_size", "max_tokens", "optimizer", "checkpoint")
    sft = SFTConfig(steps=config.steps, **{name: getattr(settings, name) for name in shared})
    training = Training(sft, context.folder, seed, runtime, context.key, context.accept_changes)
    numbers = train_on_tokens(model, tokenizer, examples, training)
    hashes = {"corpus": rows_hash(rows)}
    return {**numbers, "parameters": model.num_parameters(), "documents": len(texts), "data_hashes": hashes}


def architecture(settings: PretrainConfig, vocab_size: int) -> Any:
    """The configuration of the model that is trained from scratch."""
    heads = {"num_attention_heads": settings.heads, "num_key_value_heads": settings.kv_heads}
    sizes = {"intermediate_size": settings.intermediate_size, "max_position_embeddings": max(512, settings.max_tokens)}
    return model_config(vocab_size, settings.hidden_size, settings.layers, **heads, **sizes)


def _texts(rows: Sequence[Row], where: str) -> list[str]:
    for number, row in enumerate(rows):
        if not isinstance(row.get("text"), str):
            raise UserError(f"{where}, row {number}: needs a string 'text' (it has: {', '.join(row)})")
    return [row["text"] for row in rows]


def documents(texts: Sequence[str], tokenizer: Any, max_tokens: int) -> list[Example]:
    """Each document with its end token, in a row of its own: packed ones would see, and have to ignore, each other."""
    end = tokenizer.convert_tokens_to_ids(DOCUMENT_END)
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    rows = [[*ids, end][:max_tokens] for ids in encoded]
    return [Example(row, row) for row in rows]


if __name__ == "__main__":
    stage_main("base")
