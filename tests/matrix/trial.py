"""One architecture through a training of two steps, and what came of it in a few words."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import grpo.trainer
from grpo.config.training import RLConfig
from grpo.engines.local.engine import LocalEngine
from grpo.errors import UserError
from grpo.model.loading.weights import give_back_padding
from grpo.run import Run
from grpo.types import Group
from matrix.architectures import config_of
from support.models import farthest, make_tokenizer
from support.runs import config_of as settings_of
from support.runs import run, task_of

CLOSE = 1e-5  # log-probs, in fp32
TEXT = "a prompt longer than the windows "


@dataclass(frozen=True)
class Outcome:
    """`state`: works, refused, not tried, or failed (a wrong number: never to be left). `note`: how, or why not."""

    state: str
    note: str = ""


def tried(name: str, folder: Path) -> tuple[Outcome, Outcome]:
    """In full and with an adapter."""
    try:
        model = make_folder(name, folder / "model")
    except Exception:  # noqa: BLE001 - whatever its own code raises
        unmade = Outcome("not tried", "transformers makes none from these settings, here")
        return unmade, unmade
    return trial(model, folder / "full", lora=False), trial(model, folder / "lora", lora=True)


def make_folder(name: str, folder: Path) -> Path:
    """A random model of this architecture, with a tokenizer."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(name), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():  # what begins at 0 or 1 would hide that it is not used
            parameter += 0.05 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def eager(folder: Path) -> Any:
    """The model as transformers' own plain code computes it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    give_back_padding(model, str(folder), model.config)
    return model.eval()


def settings(lora: bool) -> RLConfig:
    adapter = {"lora": {"r": 2, "alpha": 4}} if lora else {}
    return settings_of(steps=2, group_size=3, sampling={"max_tokens": 8}, checkpoint={}, **adapter)


def trial(folder: Path, out: Path, *, lora: bool) -> Outcome:
    """Two steps from the model in `folder`: what the engine sampled is what the eager model gives, and what is saved
    is the trained model."""
    runs: list[Run] = []
    groups: list[list[Group]] = []

    def set_up(*arguments: Any) -> Run:
        runs.append(usual(*arguments))
        return runs[-1]

    def generate(*arguments: Any, **options: Any) -> list[Group]:
        groups.append(sample(*arguments, **options))
        return groups[-1]

    usual, sample = grpo.trainer.set_up, LocalEngine.generate
    try:
        with mock.patch("grpo.trainer.set_up", set_up), mock.patch.object(LocalEngine, "generate", generate):
            result = run(folder, out, settings(lora), {"default": task_of(text=TEXT)})
    except UserError as error:
        return Outcome("refused", re.sub(r"\d+\.\d+(e-\d+)?|\d+e-\d+", "…", str(error).replace(str(folder), "MODEL")))
    policy, engine = runs[0].policy, runs[0].source.engine
    if (gap := farthest(groups[0], eager(folder))) > CLOSE:
        return Outcome("failed", f"sampled log-probs are {gap:.1g} from the eager forward's")
    if wrong := what_was_lost(policy, result.model):
        return Outcome("failed", wrong)
    prompts = "shared" if runs[0].learner.fit.share_prompts else "padded rows"
    return Outcome("works", f"{prompts} | {'own' if engine.reason is None else 'generate'}")


def what_was_lost(policy: Any, folder: Path) -> str:
    """The first difference between the trained policy and what is loaded from its folder."""
    from transformers import AutoModelForCausalLM

    logging.getLogger("transformers").setLevel(logging.ERROR)
    kind = policy.model.config._attn_implementation
    found, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, attn_implementation=kind
    )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[what]:
            return f"{what}: {sorted(report[what])[0]}"
    give_back_padding(found, str(folder), found.config)
    state = found.state_dict()
    for name, tensor in policy.tensors():
        if name not in found.all_tied_weights_keys and not torch.equal(state[name], tensor):
            return f"{name} is another one when it is loaded"
    ids = torch.randint(9, 60, (1, 24))
    with torch.no_grad():
        logits = policy.model(input_ids=ids).logits
        gap = (found.eval()(input_ids=ids).logits - logits).abs().max() / logits.abs().max()
    return "" if gap < 1e-4 else f"logits are {gap:.1g} apart when it is loaded"
