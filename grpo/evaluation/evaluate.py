"""Evaluation: sample every problem, judge the completions, report means with intervals over problems.

pass@1 is the mean over problems of the share of right samples, so it does not depend on how many are drawn. An answer
counts only in the required format when there is one. What judges is handed in as loaded rewards.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from grpo.config.data import MOST_TOKENS, DataConfig, EvalConfig
from grpo.config.engine import EngineConfig, RuntimeConfig
from grpo.data.prompts import build_prompts, token_ids, with_problem_ids
from grpo.data.rendering import dated, prints_date, run_of, template_date
from grpo.data.rows import Row, load_rows
from grpo.engines.choose import engine_kind, load_for_sampling, sampling_engine
from grpo.errors import UserError
from grpo.evaluation.asking import ask
from grpo.evaluation.judging import judge_groups
from grpo.evaluation.kept import Kept
from grpo.evaluation.metrics import Judges
from grpo.evaluation.result import Asked, EvalResult, template_hash, token_counts
from grpo.model.loading.adapter import layers
from grpo.model.loading.device import pick_device
from grpo.model.loading.files import local_folder
from grpo.model.loading.limits import check_fit, check_special, embeddings, room
from grpo.model.loading.tokenizer import load_tokenizer
from grpo.scoring.table import Reward
from grpo.system.fingerprint import PACKAGES, digest, model_identity, versions
from grpo.system.world import World
from grpo.types import Group, Prompt, Sampling

log = logging.getLogger("grpo")


@dataclass(frozen=True)
class GeneralEval:
    """General prompts, one sample each, and the rule behind each of `GENERAL_METRICS` (None: does not apply)."""

    data: DataConfig
    max_tokens: int
    rewards: Mapping[str, Reward]


@dataclass(frozen=True)
class ProblemSet:
    """What a model is asked. `rows` replaces the rows of `config.data`, whose template settings still hold; of none
    only `general` is asked."""

    config: EvalConfig
    judges: Judges
    general: GeneralEval | None = None
    rows: list[Row] | None = None
    kept: Path | None = None  # where the answers of a model that has a name are until the result is written
    strict: bool = False  # other answers in that file are refused; else passed over
    most: int = MOST_TOKENS  # where `config.max_tokens` is not set it is this, or the fewer that the model has room for


@dataclass(frozen=True)
class _Prompts:
    """Of a set, and how they are sampled."""

    asked: Asked
    problems: list[Prompt]
    general: list[Prompt]
    general_sampling: Sampling
    template: dict[str, str | None]

    @classmethod
    def of(cls, one: ProblemSet, asked: Asked, tokenizer: Any) -> "_Prompts":
        data, general, sampling = one.config.data, list[Prompt](), asked.sampling
        problems = build_prompts(asked.rows, data, tokenizer, task="evaluation")
        if one.general is not None:
            rows = load_rows(one.general.data)
            general = build_prompts(rows, one.general.data, tokenizer, task="general evaluation")
            sampling = replace(sampling, group_size=1, max_tokens=one.general.max_tokens)
        printed = f"{template_date():%Y-%m-%d}" if prints_date(tokenizer, data.template) else None
        template = {"template_hash": template_hash(tokenizer, data), "template_date": printed}
        return cls(asked, problems, general, sampling, template)

    def fitted(self, loaded: Any, label: str, one: ProblemSet) -> tuple["_Prompts", int]:
        """With the tokens that the model has positions for, and the longest that a prompt and its completion may be.

        Raises:
            UserError: more were asked for.
        """
        asked, problems, where = self.asked, list(token_ids(self.problems)), f"{label}: max_tokens"
        tokens = one.config.max_tokens or room(loaded, problems, one.most)
        longest = check_fit(loaded, problems, where, tokens)
        if tokens < asked.sampling.max_tokens:
            log.warning("%s=%d, all that the model has positions for after the prompts", where, tokens)
            asked = replace(asked, sampling=replace(asked.sampling, max_tokens=tokens))
        if one.general is not None:
            where, tokens = f"{label}: general.max_tokens", one.general.max_tokens
            longest = max(longest, check_fit(loaded, token_ids(self.general), where, tokens))
        return replace(self, asked=asked), longest

    def made_with(self, model: str) -> str:
        """Hash of all that the answers follow from; more samples of a prompt change none of those it has."""
        drawn = [asdict(replace(sampling, group_size=1)) for sampling in (self.asked.sampling, self.general_sampling)]
        return digest([model, drawn, [[p.task, p.id, p.token_ids] for p in (*self.problems, *self.general)]])


def evaluate(
    model: str | tuple[Any, Any],
    config: EvalConfig,
    *,
    judges: Judges,
    engine: EngineConfig | None = None,
    runtime: RuntimeConfig | None = None,
    seed: int = 0,
    **options: Any,
) -> EvalResult:
    """Evaluate a model (folder, hub name, or a loaded model with its tokenizer) on a `ProblemSet` with these `options`.

    Raises:
        UserError: the data has no golds, or there is nothing to ask.
    """
    sets = {"evaluation": ProblemSet(config, judges, **options)}
    [result] = evaluate_sets(model, sets, engine=engine, runtime=runtime, seed=seed)
    return result


def evaluate_sets(
    model: str | tuple[Any, Any],
    sets: Mapping[str, ProblemSet],
    *,
    engine: EngineConfig | None = None,
    runtime: RuntimeConfig | None = None,
    seed: int = 0,
) -> Iterator[EvalResult]:
    """`evaluate` on several sets, with the model loaded once. `sets`: by what they are called in messages."""
    for label, one in sets.items():
        if one.rows is not None and not one.rows and one.general is None:
            raise UserError(f"{label}: no rows")
    engine, runtime = engine or EngineConfig(), runtime or RuntimeConfig()
    kind = engine_kind(engine, runtime)
    read = {label: Asked.read(one.config, one.judges, seed, one.rows, one.most) for label, one in sets.items()}
    if isinstance(model, str):
        name, tokenizer, loaded = model, load_tokenizer(model), load_for_sampling(model, engine, runtime)
    else:
        loaded, tokenizer = model
        name = str(getattr(loaded, "name_or_path", "") or "model in memory")
    with dated(run_of(name)):
        prompts = {label: _Prompts.of(one, read[label], tokenizer) for label, one in sets.items()}
    check_special(tokenizer, embeddings(loaded), loaded.generation_config.eos_token_id)
    fitted = {label: own.fitted(loaded, label, sets[label]) for label, own in prompts.items()}
    prompts, longest = {label: own for label, (own, _) in fitted.items()}, max(tokens for _, tokens in fitted.values())
    made_with = _made_with(model, kind, engine, runtime, seed) if any(one.kept for one in sets.values()) else None
    sampler = sampling_engine(engine, loaded, tokenizer, runtime, name=name, longest=longest)
    sampled: dict[str, tuple[list[Group], list[Group], float]] = {}
    begun = next(iter(read.values())).start
    try:
        for label, own in prompts.items():
            file, strict = sets[label].kept, sets[label].strict
            kept = Kept(file, own.made_with(made_with), strict) if file is not None and made_with else None
            draw = partial(ask, sampler, seed=seed, max_rows=engine.max_rows, kept=kept)
            groups = draw(own.problems, own.asked.sampling, label=label)
            general_groups = draw(own.general, own.general_sampling, label=f"general {label}")
            sampled[label] = groups, general_groups, time.monotonic() - begun
            begun = time.monotonic()
    finally:
        sampler.close()
    for label, (groups, general_groups, seconds) in sampled.items():
        if (general := sets[label].general) is not None:
            rules = [replace(reward, name=name) for name, reward in general.rewards.items()]
            general_groups = judge_groups(general_groups, rules)
        more = {"engine": kind, **prompts[label].template}
        asked = replace(prompts[label].asked, start=time.monotonic() - seconds)
        yield asked.result(name, with_problem_ids(groups), list(map(token_counts, groups)), more, general_groups)


def _made_with(model: Any, kind: str, engine: EngineConfig, runtime: RuntimeConfig, seed: int) -> str | None:
    """Hash of what samples follow from besides their prompts; None: of a model in memory that is not known. How many
    rows are decoded at a time is free: who runs out of memory lowers it."""
    if not isinstance(model, str):
        return None
    computed = [kind, engine.vllm.quantization, pick_device(runtime).type, runtime.dtype, versions((*PACKAGES, "vllm"))]
    below = World.current().main_finds(lambda: [model_identity(str(local_folder(one) or one)) for one in layers(model)])
    return digest(["+".join(below), computed, seed])
