"""The evaluation of a stage's model: loads the judges that the config names and calls the core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from grpo.config.data import EvalConfig
from grpo.evaluation.curve import Curve
from grpo.evaluation.evaluate import GeneralEval, ProblemSet, evaluate_sets
from grpo.evaluation.kept import kept_file
from grpo.evaluation.metrics import GENERAL_METRICS, Judges
from grpo.model.loading.tokenizer import load_tokenizer
from rewards.accuracy.compare import vote
from rewards.accuracy.reward import extract_answer
from rewards.loader import load_reward
from stages.recipe.config import EvaluationConfig, GeneralEvalConfig, RecipeConfig


def load_judges(config: EvalConfig, require_format: bool = True) -> Judges:
    """The rewards of an evaluation, loaded; answers are read as the accuracy reward reads them. A program is no answer
    that could be voted on."""
    options = {name: config.accuracy.kwargs[name] for name in ("strict", "anywhere") if name in config.accuracy.kwargs}
    reads = config.accuracy.fn != "code"
    return Judges(
        accuracy=load_reward(config.accuracy),
        format=load_reward(config.format) if config.format else None,
        language=load_reward(config.language) if config.language else None,
        extract_answer=partial(extract_answer, **options) if reads else None,
        vote=vote,
        require_format=require_format,
    )


def load_general(config: GeneralEvalConfig) -> GeneralEval:
    """The rules of the general prompts, loaded."""
    rewards = {name: load_reward(getattr(config, name)) for name in GENERAL_METRICS}
    return GeneralEval(config.data, config.max_tokens, rewards)


def load_curve(config: EvaluationConfig, model: str) -> Curve | None:
    """What an RL stage's policy is asked on its way, if anything: the problems of `math`, asked and judged as there."""
    if config.every is None or config.math is None:
        return None
    return Curve.of(config.math, config.every, load_judges(config.math), load_tokenizer(model))


def evaluate_stage(
    config: RecipeConfig, folder: Path, main: bool = True, sets: Sequence[str] = ()
) -> dict[str | None, dict[str, Any]]:
    """Evaluate `folder`/model on the main problems (None in what is returned) and these sets. Writes eval.json with
    eval.problems.jsonl and completions/evaluation.jsonl, and eval/<set>.json with the like beside it."""
    asked: dict[str | None, ProblemSet] = {None: _main(config)} if main else {}
    asked |= {name: ProblemSet(one, load_judges(one)) for name, one in config.evaluation.sets.items() if name in sets}
    files = {name: folder / "eval.json" if name is None else folder / "eval" / f"{name}.json" for name in asked}
    labels = {name: "evaluation" if name is None else f"evaluation.sets.{name}" for name in asked}
    problems = {labels[name]: replace(one, kept=kept_file(files[name])) for name, one in asked.items()}
    model = str(folder / "model")
    results = evaluate_sets(model, problems, engine=config.engine, runtime=config.runtime, seed=config.seed)
    by_name = dict(zip(asked, list(results), strict=True))  # all judged before the answers kept for one of them go
    for one, result in by_name.items():
        result.write(files[one], folder / "completions" / "evaluation.jsonl" if one is None else None)
    return {one: result.metrics for one, result in by_name.items()}


def _main(config: RecipeConfig) -> ProblemSet:
    problems, general = config.evaluation.math, config.evaluation.general
    settings = problems
    if settings is None:  # how general prompts are sampled then
        assert general is not None
        settings = EvalConfig(data=general.data, max_tokens=general.max_tokens)
    return ProblemSet(
        settings,
        load_judges(settings),
        general=load_general(general) if general else None,
        rows=None if problems else [],
    )
