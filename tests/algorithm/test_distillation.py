"""On-policy distillation has the exact gradient of the reverse KL: all completions of a three-token vocabulary, of one
token to three, are enumerated in float64, so expectations are sums and nothing is sampled."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from grpo.config.algorithm import CorrectionConfig, LossConfig
from grpo.distillation import teacher_advantages
from grpo.loss import Normaliser
from support.losses import double, terms_of

END, LONGEST = 2, 3  # the token that ends a completion, and the limit that cuts one


def completions(before: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    for token in range(3):
        ids = (*before, token)
        if token == END or len(ids) == LONGEST:
            yield ids
        else:
            yield from completions(ids)


IDS = list(completions())  # 15: one of one token, two of two, twelve of three
PLACES = {ids[:length]: None for ids in IDS for length in range(len(ids))}
PLACE = {prefix: number for number, prefix in enumerate(PLACES)}  # each prefix has a distribution of its own
MASK = double([[float(place < len(ids)) for place in range(LONGEST)] for ids in IDS])
WHOLE = Normaliser(1, 1, 1, 1)  # with `constant`: plain sums
generator = torch.Generator().manual_seed(3)
STUDENT, TEACHER, ENGINE = (torch.randn(len(PLACE), 3, generator=generator, dtype=torch.float64) for _ in range(3))
REWARDS = torch.randn(len(IDS), generator=generator, dtype=torch.float64)


def logprobs_of(table: Tensor) -> Tensor:
    """[15, 3] log-probs of the completions' tokens, 0 after their ends."""
    logprobs = table.log_softmax(-1)
    rows = [[logprobs[PLACE[ids[:place]], token] for place, token in enumerate(ids)] for ids in IDS]
    return torch.stack([torch.stack([*row, *[double(0.0)] * (LONGEST - len(row))]) for row in rows])


def gradient(value: Tensor, table: Tensor) -> Tensor:
    return torch.autograd.grad(value, table)[0]


def exact(of_rewards: float = 0.0) -> Tensor:
    """Of KL(student || teacher) over whole completions, less so much of the expected reward."""
    table = STUDENT.clone().requires_grad_()
    mine = logprobs_of(table).sum(-1)
    value = mine.exp() * (mine - logprobs_of(TEACHER).sum(-1) - of_rewards * REWARDS)
    return gradient(value.sum(), table)


def exact_by_token() -> Tensor:
    """Of the sum over all prefixes of KL(student || teacher) of the next token, each weighted by how often the student
    comes there, which is held fixed."""
    table = STUDENT.clone().requires_grad_()
    mine, theirs = table.log_softmax(-1), TEACHER.log_softmax(-1)
    steps, value = STUDENT.log_softmax(-1), double(0.0)
    for prefix, number in PLACE.items():
        reached = sum((steps[PLACE[prefix[:i]], token] for i, token in enumerate(prefix)), double(0.0)).exp()
        value = value + reached * (mine[number].exp() * (mine[number] - theirs[number])).sum()
    return gradient(value, table)


def expected(*, drawn_by: Tensor = STUDENT, correction: CorrectionConfig | None = None, **settings: object) -> Tensor:
    """The gradient of `grpo_loss`, each completion weighted by its probability under the policy that draws it."""
    table = STUDENT.clone().requires_grad_()
    mine, theirs, gen = logprobs_of(table), logprobs_of(TEACHER), logprobs_of(drawn_by)
    config = LossConfig.model_validate({"aggregation": "constant", **settings})
    total = double(0.0)
    for i, weight in enumerate(gen.sum(-1).exp()):
        one = slice(i, i + 1)
        terms = terms_of(
            mine[one], REWARDS[one], MASK[one], gen=gen[one], config=config, whole=WHOLE, correction=correction,
            teacher_logprobs=theirs[one],
        )  # fmt: skip
        total = total + weight * terms.loss
    return gradient(total, table)


def same(found: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-12)


def test_all_completions_are_there():
    assert len(IDS) == 15
    assert float(logprobs_of(STUDENT).sum(-1).exp().sum()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("clip", ["ppo", "cispo"])
def test_whole_completions_have_the_exact_gradient(clip):
    same(expected(clip=clip, distill={"model": "t", "horizon": "completion"}), exact())


@pytest.mark.parametrize("clip", ["ppo", "cispo"])
def test_tokens_have_the_exact_gradient_of_each_token_s_kl(clip):
    same(expected(clip=clip, distill="t"), exact_by_token())
    assert float((exact_by_token() - exact()).norm() / exact().norm()) > 0.05  # two aims, not one


def test_rewards_beside_the_teacher_have_their_own_gradient():
    settings = {"distill": {"model": "t", "horizon": "completion", "reward_weight": 0.7}}
    same(expected(**settings), exact(of_rewards=0.7))


def test_what_an_engine_of_other_weights_drew_is_corrected_exactly():
    settings = {"distill": {"model": "t", "horizon": "completion"}}
    whole = CorrectionConfig(level="sequence", high=1e9)
    same(expected(drawn_by=ENGINE, correction=whole, **settings), exact())
    off = expected(drawn_by=ENGINE, **settings)
    assert float((off - exact()).norm() / exact().norm()) > 0.05


def test_a_teacher_that_is_the_student_teaches_nothing():
    mine = logprobs_of(STUDENT)
    for horizon in ("token", "completion"):
        assert teacher_advantages(mine, mine, MASK, horizon).abs().max() == 0


def test_advantages_by_hand():
    old, teacher = double([[-1.0, -2.0, 5.0]]), double([[-1.5, -1.0, 9.0]])
    mask = double([[1, 1, 0]])
    assert teacher_advantages(old, teacher, mask, "token").tolist() == [[-0.5, 1.0, 0.0]]
    assert teacher_advantages(old.requires_grad_(), teacher, mask, "completion").tolist() == [[0.5, 1.0, 0.0]]
    assert not teacher_advantages(old, teacher, mask, "completion").requires_grad


def test_the_metric_is_the_reverse_kl():
    mine, theirs = logprobs_of(STUDENT), logprobs_of(TEACHER)
    terms = terms_of(mine, REWARDS, MASK, config=LossConfig(distill="t"), teacher_logprobs=theirs)
    right = (mine.sum(-1).exp() * (mine - theirs).sum(-1)).sum()
    found = (mine.sum(-1).exp() * (terms.teacher_kl * MASK).sum(-1)).sum()
    assert float(found) == pytest.approx(float(right), rel=1e-12)
    assert float(right) > 0
    assert terms_of(mine, REWARDS, MASK).teacher_kl is None
