"""The GRPO objective: numbers worked out by hand, float64 references, gradients by finite differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from grpo.config.training import LossConfig
from grpo.loss import Normaliser, aggregate, kl_estimate, policy_ratio, ppo_objective
from support.losses import double, terms_of

LN = math.log


def objective(logprobs: Tensor, old: Tensor, advantages: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    ratio = policy_ratio(logprobs, old, torch.ones_like(logprobs), "token")
    return ppo_objective(ratio, advantages, low, high)


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    return kl_estimate(logprobs, ref_logprobs, "k3")


def test_annotations_are_checked_at_every_call_of_the_tests():
    if not hasattr(policy_ratio, "__wrapped__"):
        pytest.skip("pytest was started without --jaxtyping-packages")
    with pytest.raises(TypeCheckError, match="mask"):  # which "token" does not look at
        policy_ratio(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 4), "token")
    with pytest.raises(TypeCheckError, match="return"):
        ppo_objective(torch.ones(2, 3), torch.ones(2), 0.2, 0.2, torch.ones(5, 1, 1))
    with pytest.raises(TypeCheckError, match="tokens"):
        Normaliser(1, "many", 3, 1)


def test_clipping_by_hand():
    # rho = 0.5, 0.9, 1, 1.1, 2 with the bounds 0.8 and 1.3
    rho = double([[0.5, 0.9, 1.0, 1.1, 2.0]] * 2)
    loss, active = objective(rho.log(), torch.zeros_like(rho), double([2.0, -2.0]), 0.2, 0.3)
    # A = 2: min(2 rho, 2 clip(rho)): low ratios keep their gradient, 2 is cut to 1.3
    assert loss[0].tolist() == pytest.approx([-1.0, -1.8, -2.0, -2.2, -2.6])
    assert active[0].tolist() == [False, False, False, False, True]
    # A = -2: min(-2 rho, -2 clip(rho)): 0.5 is cut to 0.8, high ratios keep their gradient
    assert loss[1].tolist() == pytest.approx([1.6, 1.8, 2.0, 2.2, 4.0])
    assert active[1].tolist() == [True, False, False, False, False]


@pytest.mark.parametrize(("rho", "advantage"), [(2.0, 1.0), (0.5, -1.0)])
def test_no_gradient_where_the_clip_is_active(rho, advantage):
    logprobs = double([[LN(rho)]]).requires_grad_()
    loss, active = objective(logprobs, double([[0.0]]), double([advantage]), 0.2, 0.2)
    loss.sum().backward()
    assert active.all()
    assert logprobs.grad.item() == 0.0


@pytest.mark.parametrize(("rho", "advantage"), [(2.0, -1.0), (0.5, 1.0), (1.1, 1.0), (0.9, -1.0)])
def test_the_gradient_is_rho_a_where_it_is_not(rho, advantage):
    logprobs = double([[LN(rho)]]).requires_grad_()
    loss, active = objective(logprobs, double([[0.0]]), double([advantage]), 0.2, 0.2)
    loss.sum().backward()
    assert not active.any()
    assert logprobs.grad.item() == pytest.approx(-rho * advantage)


def test_epsilon_of_r1_has_no_lower_bound():
    """clip 10: bounds -9 and 11; a ratio is positive, so only the upper one exists."""
    rho = double([[1e-6, 10.9, 11.1]] * 2)
    _, active = objective(rho.log(), torch.zeros_like(rho), double([1.0, -1.0]), 10.0, 10.0)
    assert active.tolist() == [[False, False, True], [False, False, False]]


def test_a_zero_advantage_is_never_counted_as_clipped():
    rho = double([[0.1, 5.0]])
    loss, active = objective(rho.log(), torch.zeros_like(rho), double([0.0]), 0.2, 0.2)
    assert not active.any()
    assert loss.abs().max() == 0


def test_k3_by_hand():
    # pi = 1/2; pi_ref = 1/4: 1/2 + ln 2 - 1; pi_ref = 1/2: 0; pi_ref = 1: 2 - ln 2 - 1
    found = kl_k3(double([[LN(0.5)] * 3]), double([[LN(0.25), LN(0.5), 0.0]]))
    assert found[0].tolist() == pytest.approx([LN(2) - 0.5, 0.0, 1 - LN(2)], rel=1e-14)
    assert found[0, 1] == 0.0


def test_k3_keeps_its_digits_for_small_differences():
    """exp(d) - d - 1 in fp32 is rounding noise for d = 1e-4 (true value 5e-9); expm1 is not."""
    found = kl_k3(torch.tensor([[-1.0]]), torch.tensor([[-1.0]]) + 2.0**-13)
    d = 2.0**-13
    assert found.item() == pytest.approx(d * d / 2 + d**3 / 6, rel=0.002)
    assert kl_k3(torch.randn(9, 9), torch.randn(9, 9)).min() >= 0


def test_k3_gradient_by_hand():
    # d/dlogp [exp(r - p) - (r - p) - 1] = 1 - exp(r - p); p = 1/2, r = 1/4: 1 - 1/2; r = 1: 1 - 2
    logprobs = double([[LN(0.5), LN(0.5)]]).requires_grad_()
    kl_k3(logprobs, double([[LN(0.25), 0.0]])).sum().backward()
    assert logprobs.grad[0].tolist() == pytest.approx([0.5, -1.0])


PER_TOKEN = double([[1.0, 2.0, 3.0, 99.0], [4.0, 99.0, 99.0, 99.0]])
MASK = double([[1, 1, 1, 0], [1, 0, 0, 0]])


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("sequence", ((1 + 2 + 3) / 3 + 4) / 2),  # 3
        ("token", (1 + 2 + 3 + 4) / 4),  # 2.5
        ("constant", (1 + 2 + 3 + 4) / (2 * 10)),  # 0.5
    ],
)
def test_aggregation_by_hand(aggregation, expected):
    whole = Normaliser(sequences=2, tokens=4, max_tokens=10, prompts=2)
    assert aggregate(PER_TOKEN, MASK, aggregation, whole).item() == expected
    parts = [aggregate(PER_TOKEN[i : i + 1], MASK[i : i + 1], aggregation, whole) for i in range(2)]
    assert sum(parts).item() == expected  # micro-batches add up


@pytest.mark.parametrize("aggregation", ["sequence", "token", "constant"])
def test_an_empty_step_is_zero_not_nan(aggregation):
    mask = torch.zeros(2, 3)
    assert aggregate(torch.ones(2, 3), mask, aggregation, Normaliser(0, 0, 4, 0)).item() == 0.0


def test_each_prompt_is_one_vote_by_hand():
    """The first prompt has rows 1 and 3, of four tokens together and of two others in another micro-batch; the second
    has row 2. Each is the mean over its tokens, however many completions and micro-batches they are in."""
    per_token = double([[1.0, 2.0, 3.0], [4.0, 9.0, 9.0], [6.0, 9.0, 9.0]])
    mask, tokens = double([[1, 1, 1], [1, 0, 0], [1, 0, 0]]), double([6.0, 1.0, 6.0])
    whole = Normaliser(sequences=4, tokens=7, max_tokens=10, prompts=2)
    found = aggregate(per_token, mask, "prompt", whole, tokens)
    assert found.item() == pytest.approx(((1 + 2 + 3 + 6) / 6 + 4) / 2)
    parts = [aggregate(per_token[i : i + 1], mask[i : i + 1], "prompt", whole, tokens[i : i + 1]) for i in range(3)]
    assert sum(parts).item() == pytest.approx(found.item(), rel=1e-15)
    with pytest.raises(ValueError, match="prompt_tokens"):
        aggregate(per_token, mask, "prompt", whole)


def test_sequences_that_were_skipped_stay_in_the_denominator():
    """3 of 5 sequences have no advantage: the other two's terms are divided by five, not by two."""
    whole = Normaliser(sequences=5, tokens=20, max_tokens=10, prompts=2)
    assert aggregate(PER_TOKEN, MASK, "sequence", whole).item() == pytest.approx((2 + 4) / 5)
    assert aggregate(PER_TOKEN, MASK, "token", whole).item() == pytest.approx(10 / 20)
    assert aggregate(PER_TOKEN, MASK, "constant", whole).item() == pytest.approx(10 / 50)


def test_the_whole_loss_by_hand():
    # row 1, A = 1: rho 2 -> cut to 1.2, rho 1 -> 1; k3 at pi = 1/2: pi_ref 1/4 -> ln 2 - 1/2, equal -> 0
    # row 2, A = -1: rho 2 -> 2
    logprobs = double([[LN(0.5), LN(0.5)], [LN(0.5), -3.0]])
    old = double([[LN(0.25), LN(0.5)], [LN(0.25), 7.0]])
    ref = double([[LN(0.25), LN(0.5)], [LN(0.5), -5.0]])
    mask = double([[1, 1], [1, 0]])
    config = LossConfig(beta=0.1)
    terms = terms_of(logprobs, double([1.0, -1.0]), mask, old=old, ref=ref, gen=old, config=config)
    assert terms.loss.item() == pytest.approx(((-1.2 - 1 + 0.1 * (LN(2) - 0.5)) / 2 + 2) / 2, rel=1e-14)
    assert terms.clipped.tolist() == [[True, False], [False, False]]
    assert terms.kl is not None
    assert not terms.kl.requires_grad
    assert terms.kl[0].tolist() == pytest.approx([LN(2) - 0.5, 0.0])


def test_without_old_logprobs_the_ratio_is_one_but_has_a_gradient():
    logprobs = double([[-1.0, -2.0], [-0.5, -3.0]]).requires_grad_()
    mask = double([[1, 1], [1, 0]])
    terms = terms_of(logprobs, double([2.0, -1.0]), mask)
    terms.loss.backward()
    assert terms.loss.item() == pytest.approx((-2 + 1) / 2)
    assert not terms.clipped.any()
    assert terms.kl is None
    # gradient of -A rho / length / sequences at rho = 1
    assert logprobs.grad.tolist() == [[-0.5, -0.5], [0.5, 0.0]]


def test_padding_gets_no_gradient_whatever_it_holds():
    logprobs, old, ref, gen = torch.randn(4, 3, 5, dtype=torch.float64)
    logprobs.requires_grad_()
    mask = (torch.arange(5) < torch.tensor([[5], [2], [1]])).double()
    config = LossConfig(beta=0.3, clip_low=9, clip_high=9)
    terms_of(logprobs, torch.randn(3).double(), mask, old=old, ref=ref, gen=gen, config=config).loss.backward()
    assert logprobs.grad[mask == 0].abs().max() == 0
    assert logprobs.grad[mask == 1].abs().min() > 0


def test_beta_needs_reference_logprobs():
    with pytest.raises(ValueError, match="ref_logprobs"):
        terms_of(torch.zeros(1, 1), torch.ones(1), config=LossConfig(beta=0.1))


def reference_loss(p, o, r, a, lengths, config: LossConfig, limit: int) -> float:
    """The equations again, token by token, in plain Python floats."""
    rows = []
    for i, n in enumerate(lengths):
        tokens = []
        for t in range(n):
            rho = math.exp(p[i][t] - o[i][t])
            cut = min(max(rho, 1 - config.clip_low), 1 + config.clip_high)
            kl = math.exp(r[i][t] - p[i][t]) - (r[i][t] - p[i][t]) - 1
            tokens.append(-min(rho * a[i], cut * a[i]) + config.beta * kl)
        rows.append(tokens)
    if config.aggregation == "sequence":
        return sum(sum(row) / len(row) for row in rows) / len(rows)
    total = sum(sum(row) for row in rows)
    return total / sum(lengths) if config.aggregation == "token" else total / (len(rows) * limit)


@given(st.integers(0, 10**6), st.sampled_from(["sequence", "token", "constant"]), st.sampled_from([0.0, 0.04]))
@settings(max_examples=40, deadline=None)
def test_float64_reference_and_finite_differences(seed, aggregation, beta):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    p, o, r, a = normal(3, 4) - 2, normal(3, 4) - 2, normal(3, 4) - 2, normal(3)
    lengths = [1 + int(n) for n in torch.randint(4, (3,), generator=generator)]
    mask = (torch.arange(4) < torch.tensor(lengths).unsqueeze(1)).double()
    config = LossConfig(aggregation=aggregation, beta=beta, clip_low=0.2, clip_high=0.28)
    ref = r if beta else None

    def loss(p: Tensor) -> Tensor:
        return terms_of(p, a, mask, old=o, ref=ref, gen=o, config=config).loss

    expected = reference_loss(p.tolist(), o.tolist(), r.tolist(), a.tolist(), lengths, config, 4)
    assert loss(p).item() == pytest.approx(expected, rel=1e-12, abs=1e-13)
    p32, a32, mask32, o32 = (x.float() for x in (p, a, mask, o))
    ref32 = None if ref is None else ref.float()
    single = terms_of(p32, a32, mask32, old=o32, ref=ref32, gen=o32, config=config).loss
    assert single.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert torch.autograd.gradcheck(loss, p.clone().requires_grad_(), atol=1e-6)
