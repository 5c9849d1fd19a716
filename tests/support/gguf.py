"""Tiny models packed into .gguf files the way llama.cpp's converter does it, and the folder that was packed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from support.models import make_model

MIXED = (Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_1, Kind.F32)
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXTS = [
    "Hello world", "naïve ไทย 中文 🙂", "12345 + 67.8 = 9", "x  5", "a\n\n\nb\t\tc ", "  lead", "e\u0301 and \u00e9",
    "'s DON'T we've", "<|im_start|>user\nhi<|im_end|>\n<think>so</think>", "def f(x):\n    return x  # 10", "",
]  # fmt: skip
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)


def _split(name: str) -> Any:
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name == "gpt-2":
        return whole
    if name == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole])
    regex = LLAMA3 if name == "llama-bpe" else LLAMA3.replace("{1,3}", "")
    parts = pre_tokenizers.Split(Regex(regex), "isolated")
    return pre_tokenizers.Sequence([parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level(
    split: str = "smollm", size: int = 320, special: Sequence[str] = SPECIAL, added: Sequence[str] = ()
) -> Any:
    """A tokenizer trained on `TEXTS`, as a folder has it. `special`: unk, bos, and eos."""
    from transformers import AddedToken, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(ignore_merges=split == "llama-bpe"))
    raw.pre_tokenizer, raw.decoder = _split(split), decoders.ByteLevel()
    if split in ("qwen2", "deepseek-r1-qwen"):
        raw.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=[*special])
    raw.train_from_iterator(TEXTS * 3, trainer)
    if split == "llama-bpe":
        raw.post_processor = processors.TemplateProcessing(f"{special[1]} $A", special_tokens=[(special[1], 1)])
    names = dict(zip(("unk_token", "bos_token", "eos_token"), special, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=special[2], chat_template=TEMPLATE, **names)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    return tokenizer


def packed(
    folder: Path,
    kind: str = "llama",
    split: str = "smollm",
    types: Sequence[Kind] = MIXED,
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, Any] | None = None,
    special: Sequence[str] = SPECIAL,
    added: Sequence[str] = (),
    **settings: Any,
) -> tuple[Path, Any, Any]:
    """(the file, the model in it, its tokenizer). `metadata` and `tensors` are added or replaced, None leaves out."""
    tokenizer = byte_level(split, special=special, added=added)
    ids = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    sizes = {"intermediate_size": 64, "vocab_size": len(tokenizer), **ids}
    if kind.startswith("gemma"):
        sizes |= {"head_dim": 8, "query_pre_attn_scalar": 8}
    model = make_model(kind, **sizes | settings)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{kind}.gguf"
    writer = gguf.GGUFWriter(file, kind)
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    given = _metadata(kind, model.config) | _tokens(tokenizer, split)
    for key, value in (given | (metadata or {})).items():
        if value is not None:
            kinds.get(type(value), writer.add_array)(key, value)
    held = _tensors(kind, model, types) | (tensors or {})
    for name, value in held.items():
        if value is not None:
            array, stored = value
            writer.add_tensor(name, quantize(array, stored) if stored != Kind.F32 else array, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file, model, tokenizer


def _metadata(kind: str, config: Any) -> dict[str, Any]:
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    own = {"attention.key_length": head, "attention.value_length": head} if kind != "qwen2" else {}
    if kind == "llama":
        own |= {"vocab_size": config.vocab_size, "rope.dimension_count": head}
    if kind.startswith("gemma"):
        own |= {"attention.sliding_window": config.sliding_window}
    if kind == "gemma2":
        own |= {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    shared = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": float(rope["rope_theta"]),
    }
    return {f"{kind}.{key}": value for key, value in (shared | own).items()} | {"general.name": "tiny"}


def _tokens(tokenizer: Any, split: str) -> dict[str, Any]:
    import json

    held = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    control = tokenizer.all_special_tokens
    kinds = {token: 3 if token in control else 4 for token in tokenizer.get_added_vocab()}
    said = {
        "model": "gpt2",
        "pre": split,
        "tokens": tokens,
        "token_type": [kinds.get(token, 1) for token in tokens],
        "merges": [" ".join(pair) for pair in held["merges"]],
        **{f"{name}_token_id": place for name, place in (("bos", 1), ("eos", 2), ("unknown", 0), ("padding", 2))},
    }
    return {f"tokenizer.ggml.{key}": value for key, value in said.items()} | {"tokenizer.chat_template": TEMPLATE}


@torch.no_grad()
def _tensors(kind: str, model: Any, types: Sequence[Kind]) -> dict[str, Any]:
    """{name in the file: (values, type)}; the model itself gets what is left of them in that type."""
    config = model.config
    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == kind)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    found: dict[str, Any] = {}
    for number, (name, parameter) in enumerate(model.named_parameters()):
        stored = Kind.F32 if parameter.dim() == 1 else types[number % len(types)]
        array = parameter.numpy().copy()
        if stored != Kind.F32:
            array = dequantize(quantize(array, stored), stored)
        if "norm" in name and kind.startswith("gemma"):
            array = array + 1
        parameter.copy_(torch.from_numpy(array - 1 if "norm" in name and kind.startswith("gemma") else array))
        if kind == "llama" and (".q_proj." in name or ".k_proj." in name):
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
            array = _interleaved(array, heads)
        base, suffix = name.rsplit(".", 1)
        found[f"{names.get_name(base)}.{suffix}"] = (np.ascontiguousarray(array), stored)
    return found


def _interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """Pairs of a rotation side by side, as llama.cpp wants them of a Llama."""
    rows = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return rows.swapaxes(1, 2).reshape(array.shape)
