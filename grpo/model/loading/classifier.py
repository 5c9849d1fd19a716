"""A sequence classifier with one output: what a reward model is. A causal LM becomes one only to be trained."""

from __future__ import annotations

from typing import Any

import torch

from grpo.errors import UserError
from grpo.model.loading.adapter import is_adapter, whole_of
from grpo.model.loading.files import refuse_no_numbers
from grpo.model.loading.report import Report
from grpo.model.loading.settings import read_config
from grpo.model.loading.weights import compared, loading


def load_classifier(model: str, *, new_head: bool) -> Any:
    """`new_head`: a causal LM gets a random one in place of its own.

    Raises:
        UserError: it cannot be loaded whole, or has another head.
    """
    examine_classifier(model, new_head=new_head)
    with loading(model, what="reward model"):
        auto, config = _asked(model)
        model = whole_of(model)
        loaded = auto.from_pretrained(model, config=config, dtype=torch.float32, trust_remote_code=False)
        refuse_no_numbers(loaded.named_parameters())
        return loaded


def examine_classifier(model: str, *, new_head: bool) -> None:
    """
    Raises:
        UserError: what `load_classifier` would refuse, told from the headers of its files.
    """
    with loading(model, what="reward model"):
        auto, config = _asked(model)
        kind, report = compared(auto, whole_of(model), config)
        if problem := _problem(report, kind, config, new_head):
            raise UserError(problem)


def _asked(model: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification

    if is_adapter(model):
        raise UserError("it is an adapter: merge it into its base model and save that whole")
    config = read_config(whole_of(model), "reward model")
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise UserError(f"'{config.model_type}' has no sequence classifier, which a reward model is")
    config.num_labels = 1
    return AutoModelForSequenceClassification, config


def _problem(report: Report, kind: str, config: Any, new_head: bool) -> str | None:
    """What is wrong with the head, or else with the rest."""
    from transformers import AutoModelForSequenceClassification

    body = f"{AutoModelForSequenceClassification._model_mapping[type(config)].base_model_prefix}."

    def of_body(names: Any) -> set[str]:
        return {name for name in names if name.startswith(body)}

    for name, (held, wanted) in report.misshapen.items():
        if not name.startswith(body) and held[1:] == wanted[1:]:
            return f"its head has {held[0]} outputs, and a reward model has one ({name} of {wanted})"
    head = sorted(set(report.missing) - of_body(report.missing))
    if new_head:
        report = Report(of_body(report.missing), of_body(report.unused), report.misshapen)
    elif head and not of_body(report.missing):
        random = f"{head[0]} is missing from its files, so its scores would be random"
        return f"it is no reward model, {random}: give a sequence classifier with one output"
    return report.problem(kind, config)
