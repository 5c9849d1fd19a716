"""The evaluation of a served model: the same judges and the same eval.json as for one that is loaded here.

What a server does not tell is null: its chat template always, token counts where it sends no usage. On top come the
times and the cost of the requests.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo.config.data import MOST_TOKENS, EvalConfig
from grpo.data.prompts import chat_prompts, with_problem_ids
from grpo.data.rows import Row, rows_hash
from grpo.errors import UserError
from grpo.evaluation.kept import Kept
from grpo.evaluation.metrics import Judges
from grpo.evaluation.result import Asked, EvalResult, prompt_hash
from grpo.system.fingerprint import digest
from grpo.system.numbers import total
from grpo.system.world import World
from grpo.types import Group
from stages.served.config import EndpointConfig
from stages.served.endpoint import Served, address_of, group_of, request_fields, serve

log = logging.getLogger("grpo")


def evaluate_endpoint(
    endpoint: EndpointConfig,
    config: EvalConfig,
    *,
    judges: Judges,
    seed: int = 0,
    rows: list[Row] | None = None,
    file: Path | None = None,
    most: int = MOST_TOKENS,
) -> EvalResult:
    """Evaluate a model behind an OpenAI-compatible endpoint.

    A problem with a request that got no answer is left out whole, and counted: it is not taken for wrong. In `file`
    each answer is kept as it comes: the same call asks for none of them again.

    Raises:
        UserError: the data has no golds, or a setting that only a tokenizer here could follow; see also
            `stages.served.endpoint.serve`.
    """
    if World.current().size > 1:
        raise UserError("openai:MODEL: the endpoint does the work: start one process")
    asked = Asked.read(config, judges, seed, rows, most)
    problems = with_problem_ids([Group(prompt, ()) for prompt in chat_prompts(asked.rows, config.data)])
    kept = None if file is None else Kept(file, _made_with(endpoint, config, asked))
    served = serve(endpoint, [problem.prompt for problem in problems], asked.sampling, seed, kept)
    answered = zip(problems, served.by_prompt(len(problems)), strict=True)
    whole = [(problem.prompt, answers) for problem, answers in answered if len(answers) == config.samples]
    if served.failed:
        text = "evaluation: %d requests without an answer: %d problems left out; first: %s"
        log.warning(text, served.failed, len(problems) - len(whole), served.first_error)
    sent = request_fields(endpoint, asked.sampling)
    more = {
        "temperature": sent["temperature"],  # null: `endpoint.fields` left it out
        "top_p": sent["top_p"],
        "max_tokens": sent.get("max_tokens") or sent.get("max_completion_tokens"),
        "engine": "openai",
        "endpoint": address_of(endpoint),
        "template_hash": None,
        **request_metrics(served, endpoint),
    }
    measured = [[answer.measured for answer in answers] for _, answers in whole]
    return asked.result(f"openai:{endpoint.model}", [group_of(*pair) for pair in whole], measured, more)


def _made_with(endpoint: EndpointConfig, config: EvalConfig, asked: Asked) -> str:
    """Hash of all that the answers follow from. More samples of a problem change none of those it has."""
    sent = request_fields(endpoint, asked.sampling)
    return digest([address_of(endpoint), sent, asked.seed, prompt_hash(config.data), rows_hash(asked.rows)])


def request_metrics(served: Served, endpoint: EndpointConfig) -> dict[str, Any]:
    """Times in seconds, of the attempts that succeeded; counts and cost of all completions that came, the rate of those
    that were asked for now."""
    answers = list(served.answers.values())
    tokens_in, tokens = total(a.prompt_tokens for a in answers), total(a.tokens for a in answers)
    now = total(served.answers[job].tokens for job in served.asked if job in served.answers)
    priced = ((tokens_in, endpoint.price_in), (tokens, endpoint.price_out))
    costs = [count * price for count, price in priced if count is not None and price is not None]
    return {
        "requests": len(answers) + served.failed,
        "failed_requests": served.failed,
        "retries": served.retries,
        "concurrency": endpoint.concurrency,
        **_spread([answer.first_token for answer in answers], "first_token"),
        **_spread([answer.seconds for answer in answers], "latency"),
        "tokens_per_second": round(now / served.seconds, 3) if now is not None else None,
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens,
        "price_in": endpoint.price_in,
        "price_out": endpoint.price_out,
        "cost": round(sum(costs) / 1e6, 6) if len(costs) == len(priced) else None,
    }


def _spread(values: Sequence[float | None], name: str) -> dict[str, float | None]:
    """Median and 99th percentile of what was measured; null when nothing was."""
    import numpy as np

    known = [value for value in values if value is not None]
    return {f"{name}_p{q}": round(float(np.percentile(known, q)), 4) if known else None for q in (50, 99)}
