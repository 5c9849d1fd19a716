"""The evaluation of a served model: the same judges and the same eval.json as for one that is loaded here.

What a server does not tell is null: its chat template always, token counts where it sends no usage. On top come the
times and the cost of the requests.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from grpo.config.data import DataConfig, EvalConfig
from grpo.data.prompts import PROMPT_COLUMNS, as_messages, canonical_answer
from grpo.data.rows import Row, load_rows
from grpo.errors import UserError
from grpo.evaluation.endpoint import Answer, EndpointConfig, Served, base_url, request_fields, serve
from grpo.evaluation.evaluate import EvalResult, completion_rows, settings_of, with_problem_ids, without_votes
from grpo.evaluation.judging import check_golds, judge_groups
from grpo.evaluation.metrics import Judges, general_metrics, math_metrics, problem_row
from grpo.system.world import World
from grpo.types import Completion, Group, Prompt, Rollout, Sampling

log = logging.getLogger("grpo")


def evaluate_endpoint(
    endpoint: EndpointConfig, config: EvalConfig, *, judges: Judges, seed: int = 0, rows: list[Row] | None = None
) -> EvalResult:
    """Evaluate a model behind an OpenAI-compatible endpoint.

    A problem with a request that got no answer is left out whole, and counted: it is not taken for wrong.

    Raises:
        UserError: the data has no golds, or a setting that only a tokenizer here could follow; see also
            `grpo.evaluation.endpoint.serve`.
    """
    start = time.monotonic()
    if World.current().size > 1:
        raise UserError("openai:MODEL: the endpoint does the work: start one process")
    rows = load_rows(config.data) if rows is None else rows
    source = config.data.path or config.data.fn or "rows"
    check_golds(rows, judges.accuracy, source)
    prompts = [group.prompt for group in with_problem_ids([Group(p, ()) for p in chat_prompts(rows, config.data)])]
    sampling = Sampling(config.samples, config.max_tokens, config.temperature, config.top_p)
    served = serve(endpoint, prompts, sampling, seed)
    answers = {
        number: [served.answers[number, sample] for sample in range(config.samples)]
        for number in range(len(prompts))
        if all((number, sample) in served.answers for sample in range(config.samples))
    }
    if served.failed:
        left_out = len(prompts) - len(answers)
        text = "evaluation: %d requests without an answer: %d problems left out; first: %s"
        log.warning(text, served.failed, left_out, served.first_error)
    groups = [_group(prompts[number], own) for number, own in answers.items()]
    groups = judge_groups(groups, judges.rewards())
    problems = [
        problem_row(group, judges, [answer.tokens for answer in own])
        for group, own in zip(groups, answers.values(), strict=True)
    ]
    metrics = {
        "model": f"openai:{endpoint.model}",
        "data": source,
        **math_metrics(problems, config, judges),
        **general_metrics([]),
        **settings_of(config, rows, seed),
        **_sent(endpoint, sampling),
        "engine": "openai",
        "endpoint": base_url(endpoint),
        "template_hash": None,
        **request_metrics(served, endpoint),
        "seconds": round(time.monotonic() - start, 3),
    }
    completions = [
        {**row, "tokens": answer.tokens, "seconds": answer.seconds, "first_token": answer.first_token}
        for group, own in zip(groups, answers.values(), strict=True)
        for row, answer in zip(completion_rows(group), own, strict=True)
    ]
    return EvalResult(metrics, list(map(without_votes, problems)), completions)


def chat_prompts(rows: Sequence[Row], data: DataConfig) -> list[Prompt]:
    """Messages for the server to render.

    Raises:
        UserError: a row without a prompt, or a plain-text template or token limit, which is for a tokenizer here.
    """
    if data.template is not None or data.max_prompt_tokens is not None:
        name = "template" if data.template is not None else "max_prompt_tokens"
        raise UserError(f"eval.data.{name} has no effect on openai:MODEL: its server renders the prompts; remove it")
    prompts = []
    for number, row in enumerate(rows):
        where = f"data '{data.path or data.fn or 'rows'}', row {number}"
        column = next((name for name in PROMPT_COLUMNS if row.get(name) is not None), None)
        if column is None:
            raise UserError(f"{where}: no column {' | '.join(PROMPT_COLUMNS)} (it has: {', '.join(row) or 'nothing'})")
        answer = canonical_answer(row)
        columns = dict(row) if answer is None or row.get("answer") is not None else {**row, "answer": answer}
        messages = as_messages(row[column], data, where, column)
        prompts.append(Prompt("", (), messages, None, columns, answer, "evaluation"))
    return prompts


def request_metrics(served: Served, endpoint: EndpointConfig) -> dict[str, Any]:
    """Times in seconds, of the attempts that succeeded; counts, rates and cost of all completions that came."""
    answers = list(served.answers.values())
    tokens_in, tokens = _total([a.prompt_tokens for a in answers]), _total([a.tokens for a in answers])
    cost = None
    if None not in (tokens_in, tokens, endpoint.price_in, endpoint.price_out):
        cost = round((tokens_in * endpoint.price_in + tokens * endpoint.price_out) / 1e6, 6)  # type: ignore[operator]
    return {
        "requests": len(answers) + served.failed,
        "failed_requests": served.failed,
        "retries": served.retries,
        "concurrency": endpoint.concurrency,
        **_spread([answer.first_token for answer in answers], "first_token"),
        **_spread([answer.seconds for answer in answers], "latency"),
        "tokens_per_second": round(tokens / served.seconds, 3) if tokens is not None else None,
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens,
        "price_in": endpoint.price_in,
        "price_out": endpoint.price_out,
        "cost": cost,
    }


def _spread(values: Sequence[float | None], name: str) -> dict[str, float | None]:
    """Median and 99th percentile of what was measured; null when nothing was."""
    import numpy as np

    known = [value for value in values if value is not None]
    return {f"{name}_p{q}": round(float(np.percentile(known, q)), 4) if known else None for q in (50, 99)}


def _total(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _sent(endpoint: EndpointConfig, sampling: Sampling) -> dict[str, Any]:
    """The settings as the request had them; null for one that `endpoint.fields` left out."""
    fields = request_fields(endpoint, sampling)
    limit = fields.get("max_tokens") or fields.get("max_completion_tokens")
    return {"temperature": fields["temperature"], "top_p": fields["top_p"], "max_tokens": limit}


def _group(prompt: Prompt, answers: Sequence[Answer]) -> Group:
    completions = (Completion((), (), answer.finish_reason, answer.text) for answer in answers)
    return Group(prompt, tuple(Rollout(completion) for completion in completions))
