"""Checks of what a stage will write: settings that transformers refuses to save, weights that would not load again."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from grpo.errors import UserError
from stages.check.subject import Check, Skipped, Subject, Warned


def saving_checks(subject: Subject) -> Iterator[Check]:
    """Of a base model that is there; what it is otherwise, other checks say."""
    model = subject.config.base.model
    if model is not None and subject.model is not None:
        yield "generation config", partial(generation, model)
        yield "what is saved of the weights", partial(weights, model)


def generation(model: str) -> str:
    from grpo.model.loading.generation import mended
    from grpo.model.loading.weights import load_outline

    changes = mended(load_outline(model).generation_config)
    if changes:
        raise Warned(f"transformers would refuse to save it: {changes}")
    return ""


def weights(model: str) -> str:
    """Asked of names and shapes."""
    from grpo.model.export.verify import check_can_be_saved
    from grpo.model.loading.files import local_folder
    from grpo.model.loading.weights import examine, load_outline

    try:
        if local_folder(model) is not None:
            examine(model)
        outline = load_outline(model)
    except UserError as error:
        raise Skipped("it cannot be loaded") from error
    check_can_be_saved(outline)
    return "load again under the names that they came in"
