"""Checks of what is trained and on what: adapters and checkpointing on the model's layers, rows of reward models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from grpo.config.algorithm import LoraConfig
from grpo.config.training import RLConfig, SFTConfig
from grpo.data.rows import Row
from grpo.errors import UserError
from stages import helpfulness_model, safety_model
from stages.check.prompts import MANY, MEASURED_CONVERSATIONS, spread
from stages.check.subject import BaseModel, Check, Subject, Warned
from stages.recipe.ahead import Ahead
from stages.recipe.config import RecipeConfig
from stages.recipe.preflight import student_checks
from stages.recipe.sampled import check_sampled
from stages.recipe.table import STAGES, active_stages, lineage_of

REWARD_MODELS = {"helpfulness_model": helpfulness_model.run.keywords, "safety_model": safety_model.run.keywords}
ONE_SIDED = 0.9  # share of one label from which it is a warning


def training_checks(subject: Subject) -> Iterator[Check]:
    ahead, model = Ahead(subject.run), subject.model
    for stage in active_stages(subject.config):
        for path, check in student_checks(subject.config, ahead, stage.key):
            yield f"what {path} reads", partial(_quiet, check)
    if model is None:
        return
    for key, section in subject.config:
        if key in STAGES and lineage_of(key) != "base":
            continue
        if isinstance(section, RLConfig) and section.lora is not None:
            yield f"lora of {key}", partial(adapter, model, section.lora)
        if isinstance(section, RLConfig) and section.gradient_checkpointing:
            yield f"gradient_checkpointing of {key}", partial(checkpointing, model)
    if subject.config.rejection_sampling is not None:
        yield "samples of rejection_sampling", partial(sampled, subject.config, model)
    for key, how in REWARD_MODELS.items():
        section = getattr(subject.config, key)
        rows = subject.rows(section.data) if section is not None else None
        if rows is not None:
            yield f"rows of {key}", partial(judged, rows, section, model, subject.config.seed, how)


def _quiet(check: Callable[[], None]) -> str:
    check()
    return ""


def adapter(model: BaseModel, lora: LoraConfig) -> str:
    """Names that fit no layer train nothing: multi-head latent attention, for one, has no k_proj and v_proj."""
    from grpo.model.adapter import check_bias
    from grpo.model.adapter_targets import fused_experts, target_names

    skeleton = model.empty
    names = target_names(skeleton, lora.targets)
    check_bias(skeleton, names, lora.bias)
    if untrained := fused_experts(skeleton):
        raise Warned(f"{len(names)} layers; lora.targets leaves {untrained} fused expert tensors untrained")
    return f"{len(names)} layers"


def sampled(config: RecipeConfig, model: BaseModel) -> str:
    check_sampled(config, model.tokenizer)
    return ""


def checkpointing(model: BaseModel) -> str:
    from grpo.learner.make import enable_checkpointing

    enable_checkpointing(model.empty)
    return ""


def judged(rows: list[Row], section: SFTConfig, model: BaseModel, seed: int, how: dict[str, Any]) -> str:
    """Rows of a reward model: read and measured as it would, and whether something simple tells them apart."""
    from grpo.model.loading.limits import fit
    from grpo.supervised.reward_model import Pairwise, Pointwise, encode, length_of, read_rows, split_held_out

    kind = Pairwise if how["kind"] == "pairwise" else Pointwise
    rows = read_rows(kind, rows, how["title"])
    split_held_out(rows, seed)
    some = [rows[number] for number in spread(rows, MEASURED_CONVERSATIONS)]
    encoded = [row for side in encode(kind, some, how["part"], model.tokenizer, how["title"], seed) for row in side]
    over = sum(length_of(row) > section.max_tokens for row in encoded)
    longest = max(map(length_of, encoded))
    text = f"{len(rows)} rows, the longest has {longest} tokens, {over} are over max_tokens={section.max_tokens}"
    if over == len(encoded):
        raise UserError(f"{text}: raise max_tokens")
    kept = (row for row in encoded if length_of(row) <= section.max_tokens)
    fit(model.empty, (ids for row in kept for ids in row.values() if isinstance(ids, list)), "a row")
    share, name = _one_sided(encoded)
    text = f"{text}, {name} in {share:.0%}"
    if over >= MANY * len(encoded):
        raise Warned(f"{text}: too long ones are dropped")
    if share >= ONE_SIDED:
        raise Warned(f"{text}: a model that looks at no more than that is right there")
    return text


def _one_sided(encoded: list[Row]) -> tuple[float, str]:
    """The share of rows that one label, or the longer or shorter answer, explains."""
    if "targets" in encoded[0]:
        labels = Counter("the label is 1" if row["targets"] > 0.5 else "the label is 0" for row in encoded)
    else:
        better = (len(row["chosen_ids"]) - len(row["rejected_ids"]) for row in encoded)
        labels = Counter("longer" if more > 0 else "shorter" if more < 0 else "as long" for more in better)
        labels = Counter({f"the chosen answer is {name}": count for name, count in labels.items() if name != "as long"})
    name, count = labels.most_common(1)[0] if labels else ("the chosen answer is longer", 0)
    return count / len(encoded), name
