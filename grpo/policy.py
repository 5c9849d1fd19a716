"""The policy: loading, token log-probs, export, saving. Weights are fp32 masters; half precision is autocast."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from grpo.config import RuntimeConfig
from grpo.errors import UserError


def pick_device(runtime: RuntimeConfig) -> torch.device:
    """The device asked for; `auto` takes a GPU when there is one."""
    if runtime.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[runtime.device]:
        raise UserError(f"runtime.device={runtime.device}: torch finds no such device here")
    return torch.device(runtime.device)


def _check_model(model: str) -> None:
    """A folder must hold a config.json; anything else is taken for a hub name."""
    path = Path(model)
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(f"model '{model}': not a model folder (no config.json in it)")
    if path.is_file():
        raise UserError(f"model '{model}': a file; give the model's folder or a hub name")
    if not path.exists() and (model.startswith((".", "/", "~")) or model.count("/") > 1):
        raise UserError(f"model '{model}': no such folder")


def load_tokenizer(model: str) -> Any:
    """The model's tokenizer. A pad token equal to an end token is never used in a mask, so it needs no repair."""
    from transformers import AutoTokenizer

    _check_model(model)
    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise UserError(f"model '{model}': no tokenizer can be loaded: {_first_line(error)}") from error


def inference_dtype(runtime: RuntimeConfig) -> torch.dtype:
    """What weights are held in where nothing is trained."""
    return torch.bfloat16 if runtime.dtype == "bfloat16" else torch.float32


def load_model(model: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """A causal LM, in eval mode: dropout would make pi_theta differ from the policy that sampled. Training wants fp32
    masters."""
    from transformers import AutoModelForCausalLM

    _check_model(model)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    except (OSError, ValueError) as error:
        raise UserError(f"model '{model}': cannot be loaded: {_first_line(error)}") from error
    return loaded.to(device).eval()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def end_token_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every token that ends a completion: all of the generation config's, and the tokenizer's own."""
    configured = model.generation_config.eos_token_id
    ids = [] if configured is None else configured if isinstance(configured, list) else [configured]
    if tokenizer.eos_token_id is not None:
        ids = [*ids, tokenizer.eos_token_id]
    if not ids:
        raise UserError("the model has no end token: set eos_token_id in its generation_config.json")
    return tuple(dict.fromkeys(int(token) for token in ids))


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Hugging Face format (safetensors, tokenizer, template, generation config); appears whole or not at all."""
    partial = folder.with_name(folder.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)


@dataclass(frozen=True)
class TokenScores:
    """Per-token results of one forward. Both [B, T], zero off the mask."""

    logprobs: torch.Tensor
    entropy: torch.Tensor  # detached


def token_scores(
    model: Any, token_ids: torch.Tensor, mask: torch.Tensor, temperature: float, *, with_entropy: bool = False
) -> TokenScores:
    """Log-probs (and entropies) [B, T] of the tokens where `mask` [B, T] is 1, at the sampling temperature.

    Rows are right-padded, so causal attention keeps the padding out without a mask. Logits are made from the first
    trained position on only, and turned into fp32 log-probs at trained positions only.
    """
    selected = mask.bool()
    columns = selected.any(0).nonzero()
    first = max(int(columns[0]) if len(columns) else token_ids.shape[1], 1)
    logprobs = torch.zeros(token_ids.shape, dtype=torch.float32, device=token_ids.device)
    entropy = torch.zeros_like(logprobs)
    if not len(columns):
        return TokenScores(logprobs, entropy)
    keep = token_ids.shape[1] - first + 1  # the logits at t - 1 speak of the token at t
    logits = model(input_ids=token_ids, logits_to_keep=keep, use_cache=False).logits[:, :-1]
    chosen = selected[:, first:]
    scaled = logits[chosen].float() / temperature
    normaliser = scaled.logsumexp(-1)
    values = scaled.gather(-1, token_ids[:, first:][chosen].unsqueeze(-1)).squeeze(-1) - normaliser
    logprobs = logprobs.masked_scatter(selected, values)
    if with_entropy:
        with torch.no_grad():
            spread = normaliser - (scaled.softmax(-1) * scaled).sum(-1)
        entropy = entropy.masked_scatter(selected, spread)
    return TokenScores(logprobs, entropy)


@dataclass
class Policy:
    """The model being trained, with what is needed to score, sample from and save it."""

    model: Any
    tokenizer: Any
    device: torch.device

    def export(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(Hugging Face name, full tensor), one at a time: the only way to the weights for an engine."""
        for name, tensor in self.model.state_dict().items():
            yield name, tensor.detach()

    def save(self, folder: Path) -> None:
        save_model(self.model, self.tokenizer, folder)


def load_policy(model: str, runtime: RuntimeConfig) -> Policy:
    device = pick_device(runtime)
    tokenizer = load_tokenizer(model)
    return Policy(load_model(model, device), tokenizer, device)
