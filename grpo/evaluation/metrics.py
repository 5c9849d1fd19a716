"""From judged completions to the numbers of an evaluation: one row a problem, then means with intervals. Pure."""

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grpo.config.data import EvalConfig
from grpo.data.rows import Row
from grpo.data.said import OPEN
from grpo.errors import UserError
from grpo.evaluation.statistics import maj_at_k, mean_interval, pass_at_k
from grpo.scoring.table import Reward
from grpo.system.numbers import mean, total
from grpo.types import Group, Rollout

log = logging.getLogger("grpo")

GENERAL_METRICS = ("general", "helpfulness", "safety", "over_refusal")
ExtractAnswer = Callable[[str], str | None]


@dataclass(frozen=True)
class Judges:
    """What judges a completion. Without `format`, or with `require_format` off, every right answer counts."""

    accuracy: Reward
    format: Reward | None = None
    language: Reward | None = None
    extract_answer: ExtractAnswer | None = None  # final answer in a text, for no_answer_rate and maj@k
    vote: Callable[[str], Hashable] = str  # what equal answers share, so that 1/2 and 0.5 vote together
    require_format: bool = True

    def rewards(self) -> list[Reward]:
        named = {"accuracy": self.accuracy, "format": self.format, "language": self.language}
        return [replace(reward, name=name) for name, reward in named.items() if reward is not None]


def problem_row(group: Group, judges: Judges, tokens: Sequence[int | None] | None = None) -> Row:
    """Counts of one problem. `judged` is false when the accuracy does not apply: the gold is null or unreadable.

    `tokens` of each completion, where its ids are not known; None: nobody said how many.
    """
    rollouts = group.rollouts
    in_format = [judges.format is None or _is_one(rollout, "format") for rollout in rollouts]
    counts = [ok or not judges.require_format for ok in in_format]
    correct = [ok and _is_one(rollout, "accuracy") for ok, rollout in zip(counts, rollouts, strict=True)]
    answers: list[str | None] = [None] * len(rollouts)
    if judges.extract_answer is not None:
        prefill = group.prompt.prefill
        opened = prefill[prefill.rfind(OPEN) :] if OPEN in prefill else ""  # the thinking, by the template
        answers = [judges.extract_answer(opened + rollout.completion.text) for rollout in rollouts]
    if tokens is None:
        tokens = [len(rollout.completion.token_ids) for rollout in rollouts]
    votes = [
        judges.vote(answer) if ok and answer is not None else None for answer, ok in zip(answers, counts, strict=True)
    ]
    return {
        "id": group.prompt.id,
        "part": "math",
        "n": len(rollouts),
        "judged": any(rollout.rewards["accuracy"] is not None for rollout in rollouts),
        "correct": sum(correct),
        "pass@1": sum(correct) / len(rollouts),
        "in_format": sum(in_format) if judges.format else None,
        "truncated": sum(rollout.completion.finish_reason == "length" for rollout in rollouts),
        "no_answer": sum(answer is None for answer in answers) if judges.extract_answer else None,
        "tokens": total(tokens),
        "language_consistency": mean(rollout.rewards.get("language") for rollout in rollouts),
        "votes": (votes, correct),
    }


def _is_one(rollout: Rollout, name: str) -> bool:
    value = rollout.rewards[name]
    return value is not None and value >= 1.0


def general_row(group: Group) -> Row:
    return {"id": group.prompt.id, "part": "general", **group.rollouts[0].rewards}


def math_metrics(problems: list[Row], config: EvalConfig, judges: Judges) -> dict[str, Any]:
    judged = [problem for problem in problems if problem["judged"]]
    if problems and not judged:
        source = config.data.path or config.data.fn
        raise UserError(f"data '{source}': no problem can be judged: the golds are null or cannot be read")
    if len(judged) < len(problems):
        left_out = len(problems) - len(judged)
        log.warning("evaluation: %d of %d golds are null or cannot be read: left out", left_out, len(problems))
    samples = config.samples * len(judged)
    votes = [problem["votes"] for problem in judged]

    def rate(column: str) -> float | None:
        count = total(problem[column] for problem in judged)
        return None if count is None or not judged else count / samples

    at_k: dict[str, Any] = {}
    for k in config.k:
        if k > 1:  # pass@1 is there already
            at_k |= _estimate(f"pass@{k}", [pass_at_k(p["n"], p["correct"], k) for p in judged])
        majority = [maj_at_k(answers, right, k) for answers, right in votes] if judges.extract_answer else []
        at_k |= _estimate(f"maj@{k}", majority)
    return {
        "n_problems": len(judged) or None,
        "unjudged_problems": len(problems) - len(judged),
        "samples_per_problem": config.samples,
        **_estimate("pass@1", [problem["pass@1"] for problem in judged]),
        **at_k,
        "format_rate": rate("in_format"),
        "format_required": judges.format is not None and judges.require_format,
        "language_consistency": mean(problem["language_consistency"] for problem in judged),
        "truncation_rate": rate("truncated"),
        "no_answer_rate": rate("no_answer"),
        "mean_tokens": rate("tokens"),
    }


def general_metrics(problems: Sequence[Row]) -> dict[str, Any]:
    """Mean and interval of each general metric over the prompts it applies to; null when none."""
    metrics: dict[str, Any] = {}
    for name in GENERAL_METRICS:
        metrics |= _estimate(name, [value for problem in problems if (value := problem.get(name)) is not None])
    return metrics


def _estimate(name: str, values: Sequence[float]) -> dict[str, Any]:
    """The mean over problems and its interval; null when there are none."""
    if not values:
        return {name: None, f"{name}_ci95": None}
    estimate = mean_interval(values)
    return {name: estimate.mean, f"{name}_ci95": [estimate.low, estimate.high]}
