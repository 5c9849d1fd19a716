"""Which KL choices give the exact gradient of the reverse KL(pi_theta || pi_ref): every outcome of a three-token
vocabulary is enumerated, so expectations are sums and nothing is sampled."""

import itertools

import pytest
import torch
from torch import Tensor

from grpo.config.algorithm import KLConfig, LossConfig
from grpo.loss import Normaliser, kl_estimate
from grpo.scoring.shaping import completion_kl, take_kl
from grpo.types import Completion, Group, Prompt, Rollout
from support.losses import double, terms_of

THETA = double([0.3, -0.2, 0.9])
REF = double([0.1, 0.4, -0.5]).log_softmax(-1)
OLD = double([0.9, 0.1, 0.0]).log_softmax(-1)  # another policy drew the samples


def gradient_of(value: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(value, logits, retain_graph=True)[0]


def exact() -> Tensor:
    logits = THETA.clone().requires_grad_()
    logprobs = logits.log_softmax(-1)
    return gradient_of((logprobs.exp() * (logprobs - REF)).sum(), logits)


def forward_kl_gradient() -> Tensor:
    logits = THETA.clone().requires_grad_()
    return gradient_of((REF.exp() * (REF - logits.log_softmax(-1))).sum(), logits)


def expected_gradient(kl: KLConfig, *, on_policy: bool) -> Tensor:
    """Gradient of the KL term of `grpo_loss`, each of the three one-token completions weighted by its probability under
    the policy that draws them. Advantages are 0, so the KL is all there is."""
    logits = THETA.clone().requires_grad_()
    logprobs = logits.log_softmax(-1)
    drawn_by = logprobs.detach() if on_policy else OLD
    config = LossConfig(beta=1.0, kl=kl)
    total = double(0.0)
    for token in range(3):
        one, ref, gen = (x[token].view(1, 1) for x in (logprobs, REF, drawn_by))
        terms = terms_of(one, double([0.0]), old=None if on_policy else gen, ref=ref, gen=gen, config=config)
        total = total + drawn_by[token].exp() * terms.loss
    return gradient_of(total, logits)


WEIGHTED_K3, WEIGHTED_K1 = (KLConfig(estimator=e, weighted=True) for e in ("k3", "k1"))
WEIGHTED_K2 = KLConfig(estimator="k2", weighted=True)


@pytest.mark.parametrize(
    ("kl", "on_policy"),
    [
        (WEIGHTED_K3, True),
        (WEIGHTED_K3, False),
        (WEIGHTED_K1, True),
        (WEIGHTED_K1, False),
        (KLConfig(estimator="k2"), True),
    ],
    ids=["weighted-k3-on", "weighted-k3-off", "weighted-k1-on", "weighted-k1-off", "k2-on"],
)
def test_these_give_the_exact_gradient(kl, on_policy):
    torch.testing.assert_close(expected_gradient(kl, on_policy=on_policy), exact(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("kl", "on_policy"),
    [
        (KLConfig(estimator="k2"), False),
        (KLConfig(estimator="k3"), True),
        (KLConfig(estimator="k3"), False),
        (WEIGHTED_K2, True),
    ],
    ids=["k2-off", "k3-on", "k3-off", "weighted-k2"],
)
def test_these_do_not(kl, on_policy):
    found = expected_gradient(kl, on_policy=on_policy)
    assert float((found - exact()).norm() / exact().norm()) > 0.05


def test_unweighted_k3_on_policy_is_the_forward_kls_gradient():
    """R1's and GRPO's choice: sum_x pi grad log pi (1 - pi_ref / pi) = -sum_x pi_ref grad log pi. Its value, though, is
    the reverse KL's."""
    torch.testing.assert_close(
        expected_gradient(KLConfig(estimator="k3"), on_policy=True), forward_kl_gradient(), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased_and_k2_is_not(estimator):
    logprobs = THETA.log_softmax(-1)
    reverse = (logprobs.exp() * (logprobs - REF)).sum()

    def mean(name: str) -> Tensor:
        return (logprobs.exp() * kl_estimate(logprobs.view(1, 3), REF.view(1, 3), name)[0]).sum()

    torch.testing.assert_close(mean(estimator), reverse, rtol=1e-12, atol=1e-14)
    assert abs(float(mean("k2") - reverse)) > 0.05 * float(reverse)


def test_unweighted_k1_in_the_loss_has_no_expected_gradient_and_is_refused():
    with pytest.raises(ValueError, match="zero expected gradient"):
        KLConfig(estimator="k1")
    logits = THETA.clone().requires_grad_()
    logprobs = logits.log_softmax(-1)
    value = (logprobs.exp().detach() * kl_estimate(logprobs.view(1, 3), REF.view(1, 3), "k1")[0]).sum()
    assert gradient_of(value, logits).abs().max() < 1e-15


# --- completions of two tokens: the second token's distribution depends on the first

TABLE = double(
    [[0.3, -0.2, 0.9], [1.0, 0.0, -1.0], [0.2, 0.2, 0.5], [-0.7, 0.3, 0.1]]
)  # first; after 0; after 1; after 2
REF_TABLE = double([[0.1, 0.4, -0.5], [0.0, 0.5, 0.0], [0.6, 0.1, -0.3], [0.2, 0.0, 0.4]]).log_softmax(-1)
PAIRS = list(itertools.product(range(3), range(3)))


def sequence_logprobs(table: Tensor) -> Tensor:
    """[9, 2] log-probs of the two tokens of every completion."""
    logprobs = table.log_softmax(-1)
    return torch.stack([torch.stack([logprobs[0, a], logprobs[1 + a, b]]) for a, b in PAIRS])


def exact_sequence_gradient() -> Tensor:
    table = TABLE.clone().requires_grad_()
    logprobs = sequence_logprobs(table).sum(-1)
    reference = sequence_logprobs(REF_TABLE).sum(-1)
    return gradient_of((logprobs.exp() * (logprobs - reference)).sum(), table)


def expected_sequence_gradient(config: LossConfig, advantages: Tensor) -> Tensor:
    """The loss of all nine completions, each weighted by its probability (Dr. GRPO's constant, here 1: a plain sum)."""
    table = TABLE.clone().requires_grad_()
    logprobs, ref = sequence_logprobs(table), sequence_logprobs(REF_TABLE)
    total = double(0.0)
    for row, reference, advantage in zip(logprobs.split(1), ref.split(1), advantages.split(1), strict=True):
        kl = reference if config.kl_in_loss else None
        terms = terms_of(row, advantage, ref=kl, config=config, whole=Normaliser(1, 1, 1, 1))
        total = total + row.detach().sum().exp() * terms.loss
    return gradient_of(total, table)


def test_k1_in_the_reward_is_exact_for_whole_completions():
    """Through `take_kl`, as the trainer does: reward 0 less the KL of the completion, then the policy gradient."""
    logprobs, ref = sequence_logprobs(TABLE), sequence_logprobs(REF_TABLE)
    rollouts = tuple(
        Rollout(
            Completion((1, 1), tuple(p.tolist()), "stop", ""),
            reward=0.0,
            old_logprobs=tuple(p.tolist()),
            ref_logprobs=tuple(r.tolist()),
        )
        for p, r in zip(logprobs, ref, strict=True)
    )
    config = LossConfig(beta=1.0, kl=KLConfig(estimator="k1", placement="reward"))
    assert completion_kl(rollouts[0], "k1") == pytest.approx(float((logprobs[0] - ref[0]).sum()))
    (group,) = take_kl([Group(Prompt("p", (1,)), rollouts)], config)
    rewards = double([rollout.reward for rollout in group.rollouts])
    found = expected_sequence_gradient(LossConfig(aggregation="constant"), rewards)
    torch.testing.assert_close(found, exact_sequence_gradient(), rtol=1e-9, atol=1e-12)


def test_a_sequence_ratio_weights_by_the_inverse_of_the_length_and_leaves_k1_hardly_anything():
    """All that weighted k1 learns from is the weight, whose gradient is 1/2 of the score of two tokens."""
    kl = {"estimator": "k1", "weighted": True}
    with pytest.raises(ValueError, match=r"k1 weighted by a sequence ratio has 1/\|o\| of the KL's gradient"):
        LossConfig(ratio="sequence", beta=1.0, kl=kl)
    config = LossConfig(aggregation="constant", beta=1.0, kl=kl).model_copy(update={"ratio": "sequence"})
    found = expected_sequence_gradient(config, torch.zeros(9, dtype=torch.float64))
    torch.testing.assert_close(found, exact_sequence_gradient() / 2, rtol=1e-9, atol=1e-12)


def test_a_kl_in_the_loss_leaves_out_what_a_token_does_to_later_ones():
    """Exact for each token given what came before it, so the last tokens' gradient is right; that of the first lacks
    its influence on the second's KL. All GRPO implementations with a KL in the loss share this."""
    config = LossConfig(aggregation="constant", beta=1.0, kl=WEIGHTED_K3)
    found, right = expected_sequence_gradient(config, torch.zeros(9, dtype=torch.float64)), exact_sequence_gradient()
    torch.testing.assert_close(found[1:], right[1:], rtol=1e-10, atol=1e-12)
    assert float((found[0] - right[0]).norm() / right[0].norm()) > 0.01
