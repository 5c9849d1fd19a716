"""On-policy distillation as a pure function: the student samples, the teacher scores each of its tokens.

Agarwal et al., arXiv 2306.13649; as advantages: Thinking Machines, "On-Policy Distillation" (2025).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def teacher_advantages(
    old_logprobs: Float[Tensor, "B T"],
    teacher_logprobs: Float[Tensor, "B T"],
    mask: Float[Tensor, "B T"],
    horizon: str,
) -> Float[Tensor, "B T"]:
    """log(pi_teacher / pi_old) of each token, or of it and all after it; no gradient, 0 off the mask.

    "token": the policy gradient is minus that of each token's reverse KL(pi_theta || pi_teacher) given what came before
    it, and no token answers for what it leads to. "completion", a sum from the token on: minus that of the reverse KL
    of whole completions, exactly, with more noise (tests/algorithm/test_distillation.py).
    """
    gain = ((teacher_logprobs - old_logprobs) * mask).detach()
    return gain if horizon == "token" else gain.flip(-1).cumsum(-1).flip(-1)
