"""Ratio, clip, correction and masks of the loss, worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grpo.config.algorithm import CorrectionConfig, LossConfig
from grpo.loss import (
    Normaliser,
    cispo_objective,
    correction_weights,
    dppo_objective,
    kl_estimate,
    policy_ratio,
    ppo_objective,
    stale_sequences,
)
from support.losses import double, terms_of

LN = math.log


def test_the_sequence_ratio_is_the_geometric_mean_over_trained_tokens():
    # ratios 2 and 8 -> 4; the third token is padding; the second sequence has one token
    logprobs = double([[LN(2), LN(8), 5.0], [LN(3), 7.0, 7.0]]).requires_grad_()
    mask = double([[1, 1, 0], [1, 0, 0]])
    ratio = policy_ratio(logprobs, torch.zeros(2, 3, dtype=torch.float64), mask, "sequence")
    assert ratio[0].tolist() == pytest.approx([4.0] * 3)
    assert ratio[1].tolist() == pytest.approx([3.0] * 3)
    # GSPO eq. 10: d s / d logp_t = s / |y| for each trained token, none for padding
    ratio[0, 0].backward()
    assert logprobs.grad[0].tolist() == pytest.approx([2.0, 2.0, 0.0])
    assert logprobs.grad[1].abs().max() == 0


def test_the_token_ratio_by_hand():
    ratio = policy_ratio(double([[LN(2), LN(0.5)]]), double([[0.0, LN(2)]]), double([[1, 1]]), "token")
    assert ratio[0].tolist() == pytest.approx([2.0, 0.25])


def test_the_dual_clip_by_hand():
    # A = -2, bounds 0.8 and 1.2, c = 3: 2 keeps its gradient (4), 5 is cut to c |A| = 6; A > 0 is left as it was
    ratio = double([[0.5, 2.0, 5.0]] * 2).requires_grad_()
    loss, active = ppo_objective(ratio, double([-2.0, 2.0]), 0.2, 0.2, dual_clip=3.0)
    assert loss[0].tolist() == pytest.approx([1.6, 4.0, 6.0])
    assert loss[1].tolist() == pytest.approx([-1.0, -2.4, -2.4])
    assert active.tolist() == [[True, False, True], [False, True, True]]
    loss.sum().backward()
    assert ratio.grad.tolist() == [[0.0, 2.0, 0.0], [-2.0, 0.0, 0.0]]


def test_r1s_clip_with_a_dual_clip_bounds_a_negative_advantage():
    unbounded, _ = ppo_objective(double([[1000.0]]), double([-1.0]), 10.0, 10.0)
    bounded, _ = ppo_objective(double([[1000.0]]), double([-1.0]), 10.0, 10.0, dual_clip=5.0)
    assert (unbounded.item(), bounded.item()) == (1000.0, 5.0)


def test_cispo_by_hand():
    # weights 0.5 and 4, cut to 2 at the upper side; every token keeps the gradient of its log-prob
    logprobs = double([[LN(0.5), LN(0.8)]]).requires_grad_()
    ratio = policy_ratio(logprobs, double([[0.0, LN(0.2)]]), double([[1, 1]]), "token")
    loss, cut = cispo_objective(logprobs, ratio, double([3.0]), None, 1.0)
    assert loss[0].tolist() == pytest.approx([-0.5 * 3 * LN(0.5), -2 * 3 * LN(0.8)])
    assert cut.tolist() == [[False, True]]
    loss.sum().backward()
    assert logprobs.grad[0].tolist() == pytest.approx([-1.5, -6.0])
    _, both = cispo_objective(logprobs.detach(), ratio.detach(), double([3.0]), 0.4, 1.0)
    assert both.tolist() == [[True, True]]


def test_dppo_by_hand():
    # pi_old 0.4 each; pi_theta 0.7 (moved 0.3), 0.5 (0.1), 0.15 (-0.25), with bounds 0.2 and 0.2
    logprobs = double([[LN(0.7), LN(0.5), LN(0.15)]] * 2).requires_grad_()
    old = double([[LN(0.4)] * 3] * 2)
    loss, masked = dppo_objective(logprobs, old, double([2.0, -2.0]), 0.2, 0.2)
    assert masked.tolist() == [[True, False, False], [False, False, True]]
    assert loss[0].tolist() == pytest.approx([0.0, -2 * 1.25, -2 * 0.375])
    assert loss[1].tolist() == pytest.approx([2 * 1.75, 2 * 1.25, 0.0])
    loss.sum().backward()  # d rho / d log pi = rho
    assert logprobs.grad[0].tolist() == pytest.approx([0.0, -2 * 1.25, -2 * 0.375])
    assert logprobs.grad[1].tolist() == pytest.approx([2 * 1.75, 2 * 1.25, 0.0])
    _, without = dppo_objective(logprobs, old, double([2.0, -2.0]), None, 0.2)
    assert without.tolist() == [[True, False, False], [False] * 3]
    bounded, cut = dppo_objective(logprobs, old, double([2.0, -2.0]), 0.2, 0.2, dual_clip=1.5)
    assert bounded[1].tolist() == pytest.approx([2 * 1.5, 2 * 1.25, 0.0])
    assert cut[1].tolist() == [True, False, True]


def test_dppo_lets_a_rare_token_grow_and_holds_a_likely_one():
    """Where a ratio says the opposite: from 1e-5 to 1e-3 it is 100, from 0.99 to 0.8 it is 0.81 (the paper's examples,
    section 1)."""
    old, now = double([[LN(1e-5)], [LN(0.99)]]), double([[LN(1e-3)], [LN(0.8)]])
    signs = double([1.0, -1.0])
    _, masked = dppo_objective(now, old, signs, 0.15, 0.15)
    _, clipped = ppo_objective(policy_ratio(now, old, torch.ones(2, 1).double(), "token"), signs, 0.2, 0.2)
    assert (masked.tolist(), clipped.tolist()) == ([[False], [True]], [[True], [False]])


def test_the_binary_total_variation_is_that_of_the_policies_where_no_other_token_changes_its_share():
    """All other tokens as one: sum |pi - pi_old| / 2 over (the token, the rest) is |pi(token) - pi_old(token)|."""
    old, now = double([0.3, 0.5, 0.2]), double([0.6, 2 / 7, 0.8 / 7])  # the rest keeps its 5 : 2
    assert float((now - old).abs().sum() / 2) == pytest.approx(0.3)
    _, masked = dppo_objective(now[:1].log().view(1, 1), old[:1].log().view(1, 1), double([1.0]), None, 0.2999)
    _, kept = dppo_objective(now[:1].log().view(1, 1), old[:1].log().view(1, 1), double([1.0]), None, 0.3001)
    assert (masked.item(), kept.item()) == (True, False)


GEN = double([[0.0, 0.0, 0.0, 0.0]])
OLD = double([[LN(0.5), LN(1.5), LN(4), 9.0]])
MASK = double([[1, 1, 1, 0]])


@pytest.mark.parametrize(
    ("level", "mode", "weights", "outside"),
    [
        ("token", "clip", [0.6, 1.5, 2.0], [True, False, True]),
        ("token", "mask", [0.0, 1.5, 0.0], [True, False, True]),
        ("sequence", "clip", [2.0] * 3, [True] * 3),  # 0.5 x 1.5 x 4 = 3
        ("sequence", "mask", [0.0] * 3, [True] * 3),
        ("geometric", "clip", [3 ** (1 / 3)] * 3, [False] * 3),
        ("geometric", "mask", [3 ** (1 / 3)] * 3, [False] * 3),
    ],
)
def test_the_correction_by_hand(level, mode, weights, outside):
    config = CorrectionConfig(level=level, mode=mode, low=0.6, high=2.0)
    found, cut = correction_weights(OLD.clone().requires_grad_(), GEN, MASK, config)
    assert found[0, :3].tolist() == pytest.approx(weights)
    assert cut[0, :3].tolist() == outside
    assert not found.requires_grad


def test_a_geometric_correction_does_not_grow_with_the_length():
    """The same small difference at each token: the product leaves any bounds, the geometric mean stays where it is."""
    old = torch.full((1, 2000), 0.01, dtype=torch.float64)
    gen, mask = torch.zeros_like(old), torch.ones_like(old)
    found = {}
    for level in ("sequence", "geometric"):
        config = CorrectionConfig(level=level, mode="mask", low=0.98, high=1.02)
        found[level], _ = correction_weights(old, gen, mask, config)
    assert found["sequence"].unique().tolist() == [0.0]
    assert found["geometric"].unique().tolist() == pytest.approx([math.exp(0.01)])


def test_the_correction_makes_the_gradient_unbiased():
    """Samples of another distribution, weighted: the expected gradient is that of on-policy samples, enumerated."""
    logits = double([0.3, -0.2, 0.9])
    gen = double([0.0, 0.5, 0.2]).log_softmax(-1)
    advantages = [1.0, -0.5, 0.25]

    def gradient(drawn_by: Tensor, correction: CorrectionConfig | None) -> Tensor:
        own = logits.clone().requires_grad_()
        logprobs = own.log_softmax(-1)
        total = double(0.0)
        for token in range(3):
            one, gen = logprobs[token].view(1, 1), drawn_by[token].view(1, 1)
            terms = terms_of(one, double([advantages[token]]), gen=gen, correction=correction)
            total = total + drawn_by[token].exp() * terms.loss
        return torch.autograd.grad(total, own)[0]

    right = gradient(logits.log_softmax(-1), None)
    torch.testing.assert_close(gradient(gen, CorrectionConfig(high=100)), right, rtol=1e-12, atol=1e-14)
    assert float((gradient(gen, None) - right).norm() / right.norm()) > 0.05


def test_stale_sequences_by_hand():
    # mean log(pi_gen / pi_theta): 0.2, 0.2 and 0; only the one with A < 0 and more than 0.1 goes
    logprobs = double([[-1.0, -1.0], [-1.0, -1.0], [-1.0, 50.0]])
    gen = double([[-0.7, -0.9], [-0.7, -0.9], [-1.0, -1.0]])
    mask = double([[1, 1], [1, 1], [1, 0]])
    found = stale_sequences(logprobs, gen, double([-1.0, 1.0, -1.0]), mask, 0.1)
    assert found.tolist() == [[True], [False], [False]]
    assert stale_sequences(logprobs, gen, double([-1.0, 1.0, -1.0]), mask, 0.25).any().item() is False


def test_a_dropped_sequence_has_no_policy_gradient_but_its_kl_and_its_place_in_the_mean():
    logprobs = double([[-1.0], [-1.0]]).requires_grad_()
    gen = double([[-0.5], [-1.0]])
    ref = double([[-1.5], [-1.0]])
    config = LossConfig(beta=0.1, off_policy_mask=0.1)
    terms = terms_of(logprobs, double([-1.0, -2.0]), ref=ref, gen=gen, config=config)
    terms.loss.backward()
    assert terms.dropped.tolist() == [[True], [False]]
    assert logprobs.grad[:, 0].tolist() == pytest.approx([0.1 * (1 - math.exp(-0.5)) / 2, 2.0 / 2])


def test_the_entropy_bonus_is_a_mean_over_all_tokens_of_the_step():
    entropy = double([[1.0, 2.0, 7.0]]).requires_grad_()
    mask, config, whole = double([[1, 1, 0]]), LossConfig(entropy_bonus=0.5), Normaliser(2, 6, 3, 2)
    terms = terms_of(double([[-1.0] * 3]), double([0.0]), mask, config=config, whole=whole, entropy=entropy)
    assert terms.loss.item() == pytest.approx(-0.5 * 3 / 6)
    terms.loss.backward()
    assert entropy.grad[0].tolist() == pytest.approx([-0.5 / 6, -0.5 / 6, 0.0])


def test_k1_and_k2_by_hand():
    logprobs, ref = double([[LN(0.5), LN(0.5)]]), double([[LN(0.25), LN(0.5)]])
    assert kl_estimate(logprobs, ref, "k1")[0].tolist() == pytest.approx([LN(2), 0.0])
    assert kl_estimate(logprobs, ref, "k2")[0].tolist() == pytest.approx([LN(2) ** 2 / 2, 0.0])


def test_a_weighted_kl_has_the_ratios_gradient():
    # d(rho k3)/dlogp = rho k3 + rho (1 - pi_ref / pi); rho = 2, pi = 1/2, pi_ref = 1/4
    logprobs, quarter = double([[LN(0.5)]]).requires_grad_(), double([[LN(0.25)]])
    config = LossConfig(beta=1.0, kl={"weighted": True})
    terms = terms_of(logprobs, double([0.0]), old=quarter, ref=quarter, gen=quarter, config=config)
    terms.loss.backward()
    assert terms.loss.item() == pytest.approx(2 * (LN(2) - 0.5))
    assert logprobs.grad.item() == pytest.approx(2 * (LN(2) - 0.5) + 2 * 0.5)
    assert terms.kl.item() == pytest.approx(LN(2) - 0.5)  # reported unweighted


@given(
    st.integers(0, 10**6),
    st.sampled_from(["token", "sequence"]),
    st.sampled_from(["ppo", "dppo"]),
    st.sampled_from(["sequence", "token", "prompt", "constant"]),
    st.sampled_from([None, 1.5]),
    st.sampled_from([False, True]),
)
def test_every_choice_has_the_gradient_of_its_value(seed, ratio, clip, aggregation, dual_clip, weighted):
    """Finite differences in float64 (CISPO's value is not its gradient's: its weight is detached on purpose)."""
    generator = torch.Generator().manual_seed(seed)
    p, o, r = (torch.randn(3, 4, generator=generator, dtype=torch.float64) / 2 - 2 for _ in range(3))
    a = torch.randn(3, generator=generator, dtype=torch.float64)
    mask = (torch.arange(4) < torch.tensor([[4], [2], [1]])).double()
    ratio = "token" if clip == "dppo" else ratio
    chosen = {"ratio": ratio, "clip": clip, "aggregation": aggregation, "dual_clip": dual_clip}
    config = LossConfig(**chosen, beta=0.05, kl={"weighted": weighted})

    def loss(p: Tensor) -> Tensor:
        return terms_of(p, a, mask, old=o, ref=r, gen=o, config=config).loss

    assert torch.autograd.gradcheck(loss, p.clone().requires_grad_(), atol=1e-6)
