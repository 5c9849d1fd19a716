"""Log-probs and entropies in chunks: exact, whatever the chunk, and never [tokens, vocabulary] at once."""

from typing import Any

import pytest
import torch

from grpo.config.algorithm import LoraConfig
from grpo.model import head as chunked_head
from grpo.model.adapter import add_adapter
from grpo.model.fit import fit_of
from grpo.model.head import LogitShape, target_logprobs
from grpo.model.logprobs import token_logprobs
from grpo.model.packing import make_input
from support.models import make_model, move
from support.operations import Operations

TOKENS, VOCABULARY, WIDTH = 11, 7, 5
SHAPES = [LogitShape(), LogitShape(temperature=0.7, scale=0.5), LogitShape(temperature=0.7, softcap=1.5)]


def given(dtype: torch.dtype = torch.float64, bias: bool = False, tokens: int = TOKENS, words: int = VOCABULARY) -> Any:
    torch.manual_seed(0)
    hidden = torch.randn(tokens, WIDTH, dtype=dtype, requires_grad=True)
    weight = torch.randn(words, WIDTH, dtype=dtype, requires_grad=True)
    offset = torch.randn(words, dtype=dtype, requires_grad=True) if bias else None
    return hidden, weight, offset, torch.randint(0, words, (tokens,))


def plain(hidden: Any, weight: Any, bias: Any, targets: Any, shape: LogitShape) -> tuple[torch.Tensor, torch.Tensor]:
    logits = hidden @ weight.t() + (0 if bias is None else bias)
    if shape.softcap:
        logits = shape.softcap * torch.tanh(logits / shape.softcap)
    table = (logits * shape.scale / shape.temperature).log_softmax(-1)
    return table.gather(-1, targets[:, None]).squeeze(-1), -(table.exp() * table).sum(-1)


@pytest.mark.parametrize("rows", [1, 3, 100], ids="{} rows a chunk".format)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_the_plain_ones(shape, bias, rows, monkeypatch):
    monkeypatch.setattr(chunked_head, "rows_at_a_time", lambda *_: rows)
    tensors = given(bias=bias)

    def scores(hidden: Any, weight: Any, offset: Any) -> Any:
        return target_logprobs(hidden, weight, offset, tensors[3], shape, with_entropy=True, entropy_gradient=True)

    for ours, theirs in zip(scores(*tensors[:3]), plain(*tensors, shape), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(scores, tensors[:3])


def test_entropy_has_a_gradient_only_where_it_is_asked_for():
    hidden, weight, _, targets = given()
    logprobs, entropy = target_logprobs(hidden, weight, None, targets, LogitShape())
    assert entropy.tolist() == [0.0] * TOKENS
    _, entropy = target_logprobs(hidden, weight, None, targets, LogitShape(), with_entropy=True)
    assert not entropy.requires_grad
    assert logprobs.requires_grad
    with torch.inference_mode():
        assert not target_logprobs(hidden, weight, None, targets, LogitShape())[0].requires_grad


def test_no_tensor_is_larger_than_a_chunk_forward_or_backward(monkeypatch):
    monkeypatch.setattr(chunked_head, "rows_at_a_time", lambda *_: 5)
    hidden, weight, _, targets = given(torch.float32, tokens=200, words=100)
    with Operations() as done:
        logprobs, entropy = target_logprobs(
            hidden, weight, None, targets, LogitShape(0.9), with_entropy=True, entropy_gradient=True
        )
        (logprobs + entropy).sum().backward()
    assert max(shape.numel() for shape in done.made()) == hidden.numel()  # 1,000; all logits would be 20,000
    assert max(shape[0] for shape in done.made() if len(shape) == 2 and shape[1] == 100) == 5


@pytest.mark.parametrize("rows", [3, 100])
def test_a_frozen_head_costs_no_weight_gradient(rows, monkeypatch):
    monkeypatch.setattr(chunked_head, "rows_at_a_time", lambda *_: rows)
    hidden, weight, _, targets = given()
    for frozen in (False, True):
        weight.requires_grad_(not frozen)
        logprobs, _ = target_logprobs(hidden, weight, None, targets, LogitShape())
        with Operations() as done:
            logprobs.sum().backward()
        assert (weight.shape not in done.made()) == frozen


def test_one_chunk_is_not_computed_twice(monkeypatch):
    for rows, expected in ((100, 1), (4, 6)):
        monkeypatch.setattr(chunked_head, "rows_at_a_time", lambda *_, rows=rows: rows)
        hidden, weight, _, targets = given()
        with Operations() as done:
            target_logprobs(hidden, weight, None, targets, LogitShape())[0].sum().backward()
        assert len(done.products(VOCABULARY)) == expected


@pytest.mark.parametrize("rows", [2, 1000])
def test_half_precision_multiplies_in_it_and_adds_up_in_fp32(rows, monkeypatch):
    """Against the same products in float64: what is left is the rounding of bf16, however many chunks there are."""
    monkeypatch.setattr(chunked_head, "rows_at_a_time", lambda *_: rows)
    hidden, weight, _, targets = given(torch.float32, tokens=600)
    with torch.autocast("cpu", torch.bfloat16):
        logprobs, _ = target_logprobs(hidden, weight, None, targets, LogitShape(0.9))
    logprobs.sum().backward()
    assert (logprobs.dtype, weight.grad.dtype, hidden.grad.dtype) == (torch.float32,) * 3
    exact = [x.detach().bfloat16().double().requires_grad_() for x in (hidden, weight)]
    expected, _ = plain(*exact, None, targets, LogitShape(0.9))
    expected.sum().backward()
    assert (logprobs - expected).abs().max() < 0.05
    for ours, theirs in zip((hidden, weight), exact, strict=True):
        assert float((ours.grad - theirs.grad).norm() / theirs.grad.norm()) < 1e-2


@pytest.mark.parametrize(("tokens", "blocks"), [(8, 1), (11, 2), (17, 3)])
def test_half_precision_adds_to_the_weights_gradient_once_for_several_chunks(tokens, blocks, monkeypatch):
    """[V, D] is large: two rows a chunk, four chunks a product."""
    monkeypatch.setattr(chunked_head, "rows_at_a_time", lambda *_: 2)
    hidden, weight, _, targets = given(torch.float32, tokens=tokens)
    with torch.autocast("cpu", torch.bfloat16), Operations() as done:
        target_logprobs(hidden, weight, None, targets, LogitShape())[0].sum().backward()
    assert done.products(WIDTH).count(torch.Size([VOCABULARY, WIDTH])) == blocks


@pytest.mark.parametrize("frozen", [False, True])
def test_a_frozen_head_holds_one_chunk_of_slopes(frozen, monkeypatch):
    monkeypatch.setattr(chunked_head, "rows_at_a_time", lambda *_: 2)
    hidden, weight, _, targets = given(torch.float32)
    with torch.autocast("cpu", torch.bfloat16), Operations() as done:
        target_logprobs(hidden, weight.requires_grad_(not frozen), None, targets, LogitShape())[0].sum().backward()
    held = [made for name, _, made in done.all if name.startswith("aten.empty.") and made[0][-1:] == (VOCABULARY,)]
    assert max(shape[0][0] for shape in held) == (2 if frozen else 8)


@pytest.mark.parametrize("bias", ["none", "lora_only"])
def test_an_adapter_on_the_head(bias):
    """Untied, it may have one: the same log-probs and gradients as the model's own logits give."""
    model = add_adapter(make_model("llama"), LoraConfig(r=3, alpha=6, targets=("lm_head", "q_proj", "v_proj")))
    move(model, 0.3, seed=0)
    ids = (20, 30, 40, 50, 60)
    rows = make_input([(ids[:2], ids[2:])], torch.device("cpu"), share_prompts=False)
    fit = fit_of(model, 0.8)
    token_logprobs(model, rows, fit.shape).logprobs.sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    table = (model(input_ids=torch.tensor([ids])).logits[0, 1:-1] / 0.8).log_softmax(-1)
    table.gather(-1, torch.tensor(ids[2:])[:, None]).sum().backward()
    assert any("lm_head" in name for name in found)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-5)
