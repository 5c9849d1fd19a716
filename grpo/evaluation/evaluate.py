"""Evaluation: sample every problem, judge the completions, report means with intervals over problems.

pass@1 is the mean over problems of the share of right samples, so it does not depend on how many are drawn. An answer
counts only in the required format when there is one. What judges is handed in as loaded rewards.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grpo.config.data import DataConfig, EvalConfig
from grpo.config.engine import EngineConfig, RuntimeConfig
from grpo.data.prompts import ID_COLUMNS, PROMPT_COLUMNS, build_prompts, longest_prompt
from grpo.data.rows import Row, load_rows, rows_hash, write_jsonl
from grpo.engines.choose import engine_kind, load_for_sampling, sampling_engine
from grpo.errors import UserError
from grpo.evaluation.judging import check_golds, judge_groups
from grpo.evaluation.metrics import Judges, general_metrics, general_row, math_metrics, problem_row
from grpo.model.policy import load_tokenizer
from grpo.scoring.groups import Reward
from grpo.system.files import write_json
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


@dataclass(frozen=True)
class EvalResult:
    """`metrics` is what eval.json holds, `problems` one row a problem, `completions` one row a sample."""

    metrics: dict[str, Any]
    problems: list[Row]
    completions: list[Row]

    def __getitem__(self, name: str) -> Any:
        return self.metrics[name]

    def write(self, file: Path, completions: Path | None = None) -> None:
        """`file`, `<stem>.problems.jsonl` beside it and the completions; the summary last: with it all is there."""
        write_jsonl(completions or file.with_name(file.stem + ".completions.jsonl"), self.completions)
        write_jsonl(problems_file(file), self.problems)
        write_json(file, self.metrics)


def problems_file(file: Path) -> Path:
    """Where the per-problem results of an eval.json lie."""
    return file.with_name(file.stem + ".problems.jsonl")


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
) -> EvalResult:
    """Evaluate a model (folder, hub name, or a loaded model with its tokenizer).

    `rows` replaces the rows of `config.data`, whose template settings still hold.

    Raises:
        UserError: the data has no golds.
    """
    start = time.monotonic()
    engine, runtime = engine or EngineConfig(), runtime or RuntimeConfig()
    kind = engine_kind(engine, runtime)
    rows = load_rows(config.data) if rows is None else rows
    name = model if isinstance(model, str) else str(getattr(model[0], "name_or_path", "") or "model in memory")
    source = config.data.path or config.data.fn or "rows"
    check_golds(rows, judges.accuracy, source)
    if isinstance(model, str):
        tokenizer = load_tokenizer(model)
        loaded = load_for_sampling(model, engine, runtime)
    else:
        loaded, tokenizer = model
    prompts = build_prompts(rows, config.data, tokenizer, task="evaluation")
    general_prompts = [] if general is None else _general_prompts(general, tokenizer)
    longest = _check_length("max_tokens", loaded, prompts, config.max_tokens)
    if general is not None:
        longest = max(longest, _check_length("general.max_tokens", loaded, general_prompts, general.max_tokens))
    sampler = sampling_engine(engine, loaded, tokenizer, runtime, name=name, longest=longest)
    try:
        sampling = Sampling(config.samples, config.max_tokens, config.temperature, config.top_p)
        groups = _sample(sampler, prompts, sampling, seed, engine, "evaluation")
        groups = judge_groups(with_problem_ids(groups), judges.rewards())
        general_groups = _general_groups(sampler, general_prompts, config, general, seed, engine)
    finally:
        sampler.close()
    problems = [problem_row(group, judges) for group in groups]
    general_problems = [general_row(group) for group in general_groups]
    metrics = {
        "model": name,
        "data": source,
        **math_metrics(problems, config, judges),
        **general_metrics(general_problems),
        **settings_of(config, rows, seed),
        "engine": kind,
        "template_hash": template_hash(tokenizer, config.data),
        "seconds": round(time.monotonic() - start, 3),
    }
    completions = [row for group in [*groups, *general_groups] for row in completion_rows(group)]
    return EvalResult(metrics, [*map(without_votes, problems), *general_problems], completions)


def settings_of(config: EvalConfig, rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """The part of eval.json that says what was asked, and how."""
    return {
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_tokens": config.max_tokens,
        "seed": seed,
        "prompt_hash": prompt_hash(config.data),
        "data_hash": rows_hash(rows),
    }


def with_problem_ids(groups: Sequence[Group]) -> list[Group]:
    """The groups under ids that models with different templates share: the row's own, else a hash of the question."""
    seen: Counter[str] = Counter()
    named = []
    for group in groups:
        columns = group.prompt.columns
        own = next((columns[name] for name in ID_COLUMNS if columns.get(name) is not None), None)
        question = next((columns[name] for name in PROMPT_COLUMNS if columns.get(name) is not None), None)
        text = json.dumps(question, sort_keys=True, default=str)
        name = hashlib.blake2b(text.encode(), digest_size=8).hexdigest() if own is None else str(own)
        seen[name] += 1
        name = name if seen[name] == 1 else f"{name}#{seen[name] - 1}"
        named.append(replace(group, prompt=replace(group.prompt, id=name)))
    return named


def without_votes(problem: Row) -> Row:
    """A row as eval.problems.jsonl has it."""
    return {key: value for key, value in problem.items() if key != "votes"}


def _check_length(setting: str, model: Any, prompts: Sequence[Prompt], max_tokens: int) -> int:
    """Tokens of the longest prompt and completion together, which should fit the positions of the model.

    Rotary positions can be computed beyond those that were trained, so there it is a warning: a model that ends its
    answers never gets there.

    Raises:
        UserError: they do not fit a model with learnt positions, which has no others.
    """
    settings = model.config.get_text_config()
    positions = getattr(settings, "max_position_embeddings", None)
    longest = longest_prompt(prompts)
    if positions is None or longest + max_tokens <= positions:
        return longest + max_tokens
    text = f"{setting}={max_tokens} after a prompt of {longest} tokens is more than the model's {positions} positions"
    if getattr(settings, "rope_parameters", None) is None:
        room = positions - longest
        raise UserError(f"{text}; {f'set it to at most {room}' if room > 0 else 'shorten the prompts'}")
    log.warning("evaluation: %s: what is sampled beyond them is no use", text)
    return longest + max_tokens


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


def _general_prompts(general: GeneralEval, tokenizer: Any) -> list[Prompt]:
    return build_prompts(load_rows(general.data), general.data, tokenizer, task="general evaluation")


def _general_groups(
    sampler: RolloutEngine,
    prompts: Sequence[Prompt],
    config: EvalConfig,
    general: GeneralEval | None,
    seed: int,
    engine: EngineConfig,
) -> list[Group]:
    if general is None:
        return []
    sampling = Sampling(1, general.max_tokens, config.temperature, config.top_p)
    groups = _sample(sampler, prompts, sampling, seed, engine, "general evaluation")
    return judge_groups(groups, [replace(reward, name=name) for name, reward in general.rewards.items()])


def template_hash(tokenizer: Any, data: DataConfig) -> str:
    """Hash of everything that turns a question into a prompt."""
    template = data.template or getattr(tokenizer, "chat_template", None)
    return _short_hash([template, data.system, data.suffix])


def prompt_hash(data: DataConfig) -> str:
    """Hash of what is put around a question; all that is known of the prompt where a server renders it."""
    return _short_hash([data.template, data.system, data.suffix])


def _short_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def completion_rows(group: Group) -> list[Row]:
    """One row a sample."""
    prompt = group.prompt
    return [
        {
            "id": prompt.id,
            "sample": number,
            "prompt": prompt.messages if prompt.messages is not None else prompt.text,
            "completion": rollout.completion.text,
            "answer": prompt.answer,
            "rewards": rollout.rewards,
            "finish_reason": rollout.completion.finish_reason,
            "tokens": len(rollout.completion.token_ids),
        }
        for number, rollout in enumerate(group.rollouts)
    ]
