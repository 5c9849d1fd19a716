"""A turn that ends as the chat template ends it must stop a completion, or RL samples to the limit all along."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from grpo.data.baked import give_template
from grpo.data.templates import end_of_turn
from grpo.errors import UserError
from grpo.model.loading.tokenizer import end_token_ids, load_tokenizer, shown_tokens
from stages.recipe.config import RecipeConfig, RejectionSamplingConfig, RLStageConfig
from stages.recipe.table import STAGES, active_parents

SUPERVISED = ("cold_start", "rejection_sampling", "student")


def check_ends(config: RecipeConfig) -> None:
    """
    Raises:
        UserError: a stage would sample from a base model that does not stop where its chat template ends a turn.
    """
    unstopped = unrepaired(config)
    if unstopped:
        base = config.base
        tokenizer = give_template(load_tokenizer(base.model or ""), base.chat_template, base.template_kwargs)
        check_stops(base.model or "", tokenizer, ", ".join(unstopped))


def check_stops(model: str, tokenizer: Any, stages: str) -> None:
    """
    Raises:
        UserError: these stages would sample from a model that does not stop where its chat template ends a turn.
    """
    try:
        end = end_of_turn(tokenizer)
    except UserError:  # a template without one: what such completions end with is the model's own affair
        return
    ids = stops(model, tokenizer)
    if end.written and end.id not in ids:
        raise UserError(f"{unstopping(tokenizer, end, ids)}: {remedy(end)} ({stages})")


def unstopping(tokenizer: Any, end: Any, ids: tuple[int, ...]) -> str:
    """What is wrong, in words."""
    names = shown_tokens(tokenizer, ids)
    return f"the chat template ends a turn with {end.text}, which does not stop a completion ({names} do)"


def remedy(end: Any) -> str:
    return f"add {end.id} to eos_token_id in generation_config.json"


def unrepaired(config: RecipeConfig) -> list[str]:
    """The stages that sample with the chat template and come before any supervised one, which adds its end token."""
    found = []
    for key, section in config:
        if renders_chat(section):
            before = active_parents(STAGES[key], config)[0]
            while before not in ("base", "student_base", *SUPERVISED):
                before = active_parents(STAGES[before], config)[0]
            if before == "base":
                found.append(key)
    return found


def renders_chat(section: Any) -> bool:
    """Whether a stage samples from prompts that the chat template wrote."""
    if isinstance(section, RLStageConfig):
        return any(task.data.template is None for task in section.tasks.values())
    return isinstance(section, RejectionSamplingConfig) and section.data.template is None


def stops(model: str, tokenizer: Any) -> tuple[int, ...]:
    """What ends a completion of a model, whose weights are not read.

    Raises:
        UserError: nothing does, or its settings cannot be read.
    """
    from grpo.model.loading.adapter import whole_of
    from grpo.model.loading.generation import read_generation
    from grpo.model.loading.settings import read_config

    whole = whole_of(model)
    settings = read_config(whole)
    try:
        generation = read_generation(whole, settings)
    except UserError as error:
        raise UserError(f"model '{model}': {error}") from error
    return end_token_ids(SimpleNamespace(generation_config=generation), tokenizer)
