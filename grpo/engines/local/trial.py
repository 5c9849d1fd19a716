"""How a model is decoded, tried out before anything is sampled: a few tokens against its plain forward."""

import logging

import torch

from grpo.engines.local.engine import LocalEngine
from grpo.errors import UserError, first_line
from grpo.model.adapter import base_model
from grpo.model.fit import check_causal, probe_ids
from grpo.types import Prompt, Sampling

log = logging.getLogger("grpo")

# Mean difference of log-probs. Rounding gives 1e-5 in fp32 and a few 1e-2 in half precision; another kind of attention
# 1e-1. What is between stops a training at its first rollout (`grpo.learner.gate`).
LIMIT = {"float32": 1e-3}
LIMIT_HALF = 0.5
FEW = Sampling(group_size=2, max_tokens=4)


def tried(engine: LocalEngine, dtype: str) -> LocalEngine:
    """The engine, which decodes as its model does. `dtype`: what it computes in, as `runtime.dtype` says.

    Raises:
        UserError: neither way of decoding gives what the model's forward gives.
    """
    check_causal(engine.model)
    name, limit = type(base_model(engine.model)).__name__, LIMIT.get(dtype, LIMIT_HALF)
    if engine.reason is None:
        engine.reason = _problem(engine, limit)
    if engine.reason is None:
        return engine
    problem = _problem(engine, limit)
    if problem is not None:
        raise UserError(f"the embedded engine cannot sample from {name}: {problem}; use engine=vllm if vLLM serves it")
    log.warning("%s: sampled by transformers' own generate, which is slower: %s", name, engine.reason)
    return engine


@torch.no_grad()
def _problem(engine: LocalEngine, limit: float) -> str | None:
    """What is wrong with a few tokens that the engine samples; None: nothing."""
    ids = probe_ids(engine.model)
    prompts = [Prompt(id=str(n), token_ids=part) for n, part in enumerate((ids[:12], ids[12:20], ids[20:21]))]
    try:
        groups = engine.sample(prompts, FEW, seed=0, step=0)
    except Exception as error:  # noqa: BLE001 - whatever its own code makes of what it was not written for
        return first_line(error, typed=not isinstance(error, UserError))
    gaps = []
    for group in groups:
        for done in (rollout.completion for rollout in group.rollouts):
            whole = torch.tensor([[*group.prompt_ids, *done.token_ids]], device=engine.model.device)
            logits = engine.model(input_ids=whole, use_cache=False).logits[0, len(group.prompt_ids) - 1 : -1]
            table = logits.float().log_softmax(-1)
            plain = table.gather(-1, whole[0, len(group.prompt_ids) :, None]).squeeze(-1)
            gaps.append((torch.tensor(done.logprobs, device=plain.device) - plain).abs())
    gap = float(torch.cat(gaps).mean())
    return None if gap <= limit else f"its log-probs would be {gap:.2g} from those of the model's forward"
