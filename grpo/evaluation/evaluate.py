"""Evaluation: sample every problem, judge the completions, report means with intervals over problems.

pass@1 is the mean over problems of the share of right samples, so it does not depend on how many are drawn. An answer
counts only in the required format when there is one. What judges is handed in as loaded rewards.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grpo.config.data import MOST_TOKENS, DataConfig, EvalConfig
from grpo.config.engine import EngineConfig, RuntimeConfig
from grpo.data.prompts import build_prompts, token_ids, with_problem_ids
from grpo.data.rendering import dated, prints_date, run_of, template_date
from grpo.data.rows import Row, load_rows
from grpo.engines.choose import engine_kind, load_for_sampling, sampling_engine
from grpo.errors import UserError
from grpo.evaluation.judging import judge_groups
from grpo.evaluation.metrics import Judges
from grpo.evaluation.result import Asked, EvalResult, template_hash, token_counts
from grpo.model.loading.limits import check_fit, check_special, embeddings, room
from grpo.model.loading.tokenizer import load_tokenizer
from grpo.scoring.table import Reward
from grpo.system.progress import progress
from grpo.system.world import World
from grpo.types import Group, Prompt, RolloutEngine, Sampling

log = logging.getLogger("grpo")


@dataclass(frozen=True)
class GeneralEval:
    """General prompts, one sample each, and the rule behind each of `GENERAL_METRICS` (None: does not apply)."""

    data: DataConfig
    max_tokens: int
    rewards: Mapping[str, Reward]


def evaluate(
    model: str | tuple[Any, Any],
    config: EvalConfig,
    *,
    judges: Judges,
    engine: EngineConfig | None = None,
    runtime: RuntimeConfig | None = None,
    seed: int = 0,
    general: GeneralEval | None = None,
    rows: list[Row] | None = None,
    most: int = MOST_TOKENS,
) -> EvalResult:
    """Evaluate a model (folder, hub name, or a loaded model with its tokenizer).

    `rows` replaces the rows of `config.data`, whose template settings still hold; of none only `general` is asked.
    Where `max_tokens` is not set it is `most`, or the fewer that the model has positions for.

    Raises:
        UserError: the data has no golds, or there is nothing to ask.
    """
    if rows is not None and not rows and general is None:
        raise UserError("evaluation: no rows")
    engine, runtime = engine or EngineConfig(), runtime or RuntimeConfig()
    kind = engine_kind(engine, runtime)
    asked = Asked.read(config, judges, seed, rows, most)
    if isinstance(model, str):
        name, tokenizer, loaded = model, load_tokenizer(model), load_for_sampling(model, engine, runtime)
    else:
        loaded, tokenizer = model
        name = str(getattr(loaded, "name_or_path", "") or "model in memory")
    general_prompts, general_groups = [], []
    with dated(run_of(name)):
        prompts = build_prompts(asked.rows, config.data, tokenizer, task="evaluation")
        if general is not None:
            general_prompts = build_prompts(load_rows(general.data), general.data, tokenizer, task="general evaluation")
        printed = f"{template_date():%Y-%m-%d}" if prints_date(tokenizer, config.data.template) else None
    check_special(tokenizer, embeddings(loaded), loaded.generation_config.eos_token_id)
    tokens = config.max_tokens or room(loaded, token_ids(prompts), most)
    longest = check_fit(loaded, token_ids(prompts), "evaluation: max_tokens", tokens)
    if tokens < asked.sampling.max_tokens:
        log.warning("evaluation: max_tokens=%d, all that the model has positions for after the prompts", tokens)
        asked = replace(asked, sampling=replace(asked.sampling, max_tokens=tokens))
    if general is not None:
        asked_for = "evaluation: general.max_tokens"
        longest = max(longest, check_fit(loaded, token_ids(general_prompts), asked_for, general.max_tokens))
    sampler = sampling_engine(engine, loaded, tokenizer, runtime, name=name, longest=longest)
    try:
        groups = _sample(sampler, prompts, asked.sampling, seed, engine, "evaluation")
        if general is not None:
            sampling = replace(asked.sampling, group_size=1, max_tokens=general.max_tokens)
            general_groups = _sample(sampler, general_prompts, sampling, seed, engine, "general evaluation")
    finally:
        sampler.close()
    if general is not None:
        rules = [replace(reward, name=name) for name, reward in general.rewards.items()]
        general_groups = judge_groups(general_groups, rules)
    more = {"engine": kind, "template_hash": template_hash(tokenizer, config.data), "template_date": printed}
    return asked.result(name, with_problem_ids(groups), list(map(token_counts, groups)), more, general_groups)


def _sample(
    sampler: RolloutEngine, prompts: Sequence[Prompt], sampling: Sampling, seed: int, engine: EngineConfig, label: str
) -> list[Group]:
    """In parts, so that progress can be shown; a sample does not depend on the others in its part. Every process
    draws its share."""
    world = World.current()
    part = max(1, 4 * world.size * engine.max_rows // sampling.group_size)
    groups: list[Group] = []
    with progress(label, total=len(prompts)) as bar:
        for start in range(0, len(prompts), part):
            chosen = prompts[start : start + part]
            groups += world.spread(chosen, lambda own: sampler.generate(own, sampling, seed=seed, step=0))
            bar.advance(len(chosen))
    return groups
