"""Checks of the weights that a config names: the base model's, and those of reward models that are there already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from grpo.config.algorithm import DistillConfig
from grpo.config.data import RewardConfig
from stages.check.subject import Check, Skipped, Subject
from stages.recipe.ahead import RUN
from stages.recipe.config import BaseConfig, find


def weight_checks(subject: Subject) -> Iterator[Check]:
    from grpo.model.loading.classifier import examine_classifier

    config = subject.config
    models = [one.model for kind in (BaseConfig, DistillConfig) for _, one in find(config, kind)]
    for name in dict.fromkeys(model for model in models if model is not None and RUN not in model):
        yield f"weights of {name}", partial(_here, name, _whole)
    for path, spec in find(subject.config, RewardConfig):
        model: Any = spec.kwargs.get("model")
        if spec.fn == "reward_model" and isinstance(model, str) and RUN not in model:
            yield f"weights of {path} ({model})", partial(_here, model, partial(examine_classifier, new_head=False))


def _here(model: str, examine: Callable[[str], Any]) -> str:
    """What can be told of the files without loading them; the hub is not asked."""
    from grpo.model.loading.files import local_folder
    from grpo.model.loading.path import check_model

    check_model(model)
    if local_folder(model) is None:
        raise Skipped("a hub model that is not on this machine, not fetched")
    return examine(model) or ""


def _whole(model: str) -> str:
    from grpo.model.loading.weights import examine, look_at_values

    report = examine(model)
    look_at_values(model)
    spare = f"; left out, not trained or saved: {', '.join(sorted(report.spare)[:3])}" if report.spare else ""
    return f"all are there and finite{spare}"
