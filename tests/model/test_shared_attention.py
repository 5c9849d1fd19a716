"""Prompts shared in one flat row: the same numbers as one plain forward per completion, and none of the work twice."""

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from grpo.config.engine import RuntimeConfig
from grpo.config.training import RLConfig
from grpo.errors import UserError
from grpo.learner.batching import TrainRow
from grpo.learner.learner import Learner
from grpo.learner.make import make_learner
from grpo.model import attention as shared_attention
from grpo.model import attention_cpu as cpu_attention
from grpo.model.fit import fit_of
from grpo.model.head import LogitShape
from grpo.model.logprobs import token_logprobs
from grpo.model.packing import ModelInput, Segments, make_input
from grpo.model.policy import Policy
from grpo.types import Completion, Rollout
from support.models import EOS, PAD, VOCAB_SIZE, make_model, make_tokenizer, move
from support.operations import Operations
from support.runs import before, config_of
from support.train import backward

CPU = torch.device("cpu")
Sequences = list[tuple[tuple[int, ...], tuple[int, ...]]]


def ids(rng: random.Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randrange(9, VOCAB_SIZE) for _ in range(count))


def groups(seed: int, prompts: tuple[int, ...], completions: tuple[int, ...], size: int = 4) -> Sequences:
    """`size` completions of each prompt, of these lengths."""
    rng = random.Random(seed)
    return [
        (prompt, ids(rng, rng.choice(completions)))
        for prompt in [ids(rng, length) for length in prompts]
        for _ in range(size)
    ]


LAYOUTS = {
    "like": groups(0, (22, 22, 22), (22,)),
    "unlike": groups(1, (1, 3, 40, 9, 30), (1, 2, 5, 20, 33)),
    "one": groups(2, (7,), (4,), 1),
    "single tokens": groups(3, (5, 2), (1,)),
    "empty": [((9, 10), ()), *groups(4, (3,), (5, 6), 2)],
    "repeated": groups(5, (4, 5), (3, 30)) + groups(5, (4, 5), (3, 30)),  # the same prompts again, further on
}


CAPPED: list[dict[str, Any]] = [{"sliding_window": 6}, {"softcap": 1.5}, {"sliding_window": 9, "softcap": 2.0}]

# ---- rows


def test_a_row_by_hand():
    rows = make_input([((1, 2, 3), (4, 5)), ((1, 2, 3), (6,)), ((7,), (8, 9, 10))], CPU, share_prompts=True)
    #                                     1  2  3  7  4  8  9
    assert rows.token_ids.tolist() == [[1, 2, 3, 7, 4, 8, 9]]
    assert rows.positions.tolist() == [[0, 1, 2, 0, 3, 1, 2]]
    assert rows.predictors.tolist() == [2, 4, 2, 3, 5, 6]
    assert rows.targets.tolist() == [4, 5, 6, 8, 9, 10]
    own, prompt = rows.segments.labels
    assert own.tolist() == [0, 0, 0, 1, 2, 3, 3]
    assert prompt.tolist() == [0, 0, 0, 1, 0, 1, 1]
    assert rows.segments.places.tolist() == rows.positions[0].tolist()
    assert rows.segments.longest == 4
    padded = make_input([((1, 2, 3), (4, 5)), ((7,), (8,))], CPU, share_prompts=False)
    assert padded.token_ids.tolist() == [[1, 2, 3, 4], [7, 0, 0, 0]]
    assert padded.predictors.tolist() == [2, 3, 4]


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_token_attends_once_to_itself_and_once_to_its_prompt(layout):
    """Buckets of the flash way: each token in one of them, completions in one more."""
    rows = make_input(LAYOUTS[layout], CPU, share_prompts=True)
    segments = rows.segments
    own = torch.cat([bucket.flat for bucket in segments.own]).tolist()
    assert sorted(own) == list(range(rows.token_ids.shape[1]))
    asking = [position for bucket, _, _ in segments.across for position in bucket.flat.tolist()]
    completions = int(segments.prompts[1].sum())
    assert sorted(asking) == list(range(completions, rows.token_ids.shape[1]))


# ---- attention by itself, in float64


def plain_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: Segments, scale: float, window: Any, softcap: Any
) -> torch.Tensor:
    """Of each completion with its prompt by itself, as if it were a row of its own; [T, H, D]."""
    out = torch.zeros_like(q)
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    stretches = [(*both, []) for both in zip(*segments.prompts, strict=True)]
    for start, length, prompt in zip(*segments.completions, segments.group, strict=True):
        begins, count, _ = stretches[prompt]
        stretches.append((start, length, list(range(begins, begins + count))))
    for start, length, first in stretches:
        where = [*first, *range(start, start + length)]
        scores = torch.einsum("qhd,khd->hqk", q[where], k[where]) * scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        place = torch.arange(len(where))
        seen = place[None] <= place[:, None]
        if window:
            seen &= place[:, None] - place[None] < window
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        result = torch.einsum("hqk,khd->qhd", weights, v[where])
        out = out.index_copy(0, torch.tensor(where[len(first) :]), result[len(first) :])
    return out


def tensors(rows: ModelInput, heads: tuple[int, int] = (4, 2)) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shape = rows.token_ids.shape[1], 8
    return [torch.randn(shape[0], n, 8, dtype=torch.float64, requires_grad=True) for n in (heads[0], *heads[1:] * 2)]


def attend(segments: Segments, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    module = nn.Module()
    module.config = type("Config", (), {})()
    given = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    return shared_attention.attend(module, *given, None, segments=segments, scaling=0.3, **options)[0][0]


@pytest.mark.parametrize("heads", [(4, 2), (3, 3), (4, 1)], ids=str)
@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize(
    ("options", "short"),
    [({}, cpu_attention.SHORT), ({}, 16), ({}, 0), *((capped, 0) for capped in CAPPED)],
    ids=["short", "short and long", "long", "window", "softcap", "both"],
)
def test_attention_and_its_gradients_are_those_of_rows_by_themselves(layout, options, short, heads, monkeypatch):
    """`short`: keys up to which products of a whole batch are taken instead of flash attention."""
    monkeypatch.setattr(cpu_attention, "SHORT", short)
    rows = make_input(LAYOUTS[layout], CPU, share_prompts=True)
    own = tensors(rows, heads)
    others = [x.detach().clone().requires_grad_() for x in own]
    found = attend(rows.segments, *own, **options)
    expected = plain_attention(*others, rows.segments, 0.3, options.get("sliding_window"), options.get("softcap"))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(expected)
    (found * upstream).sum().backward()
    (expected * upstream).sum().backward()
    for ours, theirs in zip(own, others, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("short", [cpu_attention.SHORT, 16, 0], ids=["short", "short and long", "long"])
def test_in_half_precision_only_what_goes_in_and_out_is_rounded(layout, short, monkeypatch):
    """As a trainer computes it: forwards under autocast, and no sum is added up in bf16."""
    monkeypatch.setattr(cpu_attention, "SHORT", short)
    rows = make_input(LAYOUTS[layout], CPU, share_prompts=True)
    own = [x.detach().bfloat16().requires_grad_() for x in tensors(rows)]
    others = [x.detach().double().requires_grad_() for x in own]
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(rows.segments, *own)
    expected = plain_attention(*others, rows.segments, 0.3, None, None)
    upstream = torch.randn_like(expected).bfloat16()
    (found * upstream).sum().backward()
    (expected * upstream).sum().backward()
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=2**-7, atol=0.02)
    for ours, theirs in zip(own, others, strict=True):
        off = (ours.grad.double() - theirs.grad).abs() / theirs.grad.abs().mean()
        assert off.mean() < 0.01
        assert off.max() < 0.25


@pytest.mark.parametrize("short", [cpu_attention.SHORT, 0], ids=["short", "long"])
def test_scores_far_apart_cost_no_precision(short, monkeypatch):
    """In fp32, when the first key of each stretch is far below the others."""
    monkeypatch.setattr(cpu_attention, "SHORT", short)
    rows = make_input(groups(6, (3, 40, 9, 30), (2, 5, 20, 33)), CPU, share_prompts=True)
    q, k, v = (x.detach() for x in tensors(rows))
    q[..., 0] = 1.0
    for start in np.concatenate([rows.segments.prompts[0], rows.segments.completions[0]]):
        k[start, :, 0] = -300 / 0.3
    found = attend(rows.segments, q.float(), k.float(), v.float())
    expected = plain_attention(q, k, v, rows.segments, 0.3, None, None)
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("layout", ["like", "unlike", "one"])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (6, None), (None, 1.5)])
def test_flex_attention_sees_the_same(layout, window, softcap):
    """What runs on a GPU, compiled; its forward runs on a CPU too."""
    rows = make_input(LAYOUTS[layout], CPU, share_prompts=True)
    q, k, v = (x.detach().float() for x in tensors(rows))
    given = [x.transpose(0, 1).unsqueeze(0) for x in (q, k, v)]
    found = shared_attention.flex_attention(*given, rows.segments, 0.3, window, softcap)[0].transpose(0, 1)
    expected = plain_attention(q, k, v, rows.segments, 0.3, window, softcap)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert len(rows.segments.block_masks) == 1


@pytest.mark.parametrize(("completion", "flash"), [(30, False), (90, True)])
def test_the_work_of_attention_is_a_few_calls_and_no_prompt_is_copied(completion, flash, monkeypatch):
    """32 groups of 8: three attentions a layer, over keys that hold each prompt once; flash only of what is long."""
    calls: list[tuple[int, ...]] = []
    before(monkeypatch, shared_attention, "attention", lambda query, key, *_, **__: calls.append(tuple(key.shape)))
    rows = make_input(groups(0, (22,) * 32, (completion,), 8), CPU, share_prompts=True)
    with Operations() as done:
        attend(rows.segments, *tensors(rows))
    flashed = [shapes[1] for name, shapes, _ in done.all if "flash_attention" in name]
    assert sorted(calls) == [(32, 2, 22, 8), (32, 2, 22, 8), (256, 2, completion - 1, 8)]
    assert flashed == [(256, 2, 89, 8)] * flash


# ---- whole models

MODELS: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {},
    "llama": {},
    "mistral": {},
    "mistral-window": {},
    "gemma2": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    "gpt2": {},
}


def by_themselves(model: Any, sequences: Sequences, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs and entropies by one plain unpadded forward of the model per completion."""
    logprobs, entropies = [], []
    for prompt, completion in sequences:
        if not completion:
            continue
        logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1] / temperature
        table = logits.log_softmax(-1)
        logprobs.append(table.gather(-1, torch.tensor(completion).unsqueeze(-1)).squeeze(-1))
        entropies.append(-(table.exp() * table).sum(-1))
    return torch.cat(logprobs), torch.cat(entropies)


def assert_packed_is_plain(
    model: Any, sequences: Sequences, close: float, gradient: float, entropy: bool = True
) -> None:
    """Log-probs, entropies and gradients of one packed row against a plain forward for each completion."""
    other = copy.deepcopy(model)
    fit = fit_of(model, 0.9)
    assert fit.share_prompts
    rows = make_input(sequences, CPU, share_prompts=True)
    with shared_attention.shared_attention(model):
        scores = token_logprobs(model, rows, fit.shape, with_entropy=entropy, entropy_gradient=entropy)
    logprobs, entropies = by_themselves(other, sequences, 0.9)
    torch.testing.assert_close(scores.logprobs, logprobs, rtol=close, atol=close)
    if entropy:
        torch.testing.assert_close(scores.entropy, entropies, rtol=close, atol=close)
    weights = torch.randn(len(logprobs), generator=torch.Generator().manual_seed(3), dtype=logprobs.dtype)
    (scores.logprobs * weights + (0.1 * scores.entropy if entropy else 0.0)).sum().backward()
    (logprobs * weights + (0.1 * entropies if entropy else 0.0)).sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        if theirs.grad.norm() == 0:
            assert ours.grad.norm() == 0
        else:
            assert float((ours.grad - theirs.grad).norm() / theirs.grad.norm()) <= gradient, name


@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize(("layout", "entropy"), [("unlike", True), ("unlike", False), ("empty", True)])
def test_log_probs_and_gradients_are_those_of_plain_forwards(kind, layout, entropy):
    assert_packed_is_plain(make_model(kind, 1, **MODELS[kind]), LAYOUTS[layout], 1e-5, 1e-5, entropy)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16, "rope_theta": 10000.0,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
FAMILY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama linear": ("llama", {"rope_parameters": LINEAR}),
    "llama yarn": ("llama", {"rope_parameters": YARN}),
    "llama llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama one key head": ("llama", {"num_key_value_heads": 1}),
    "qwen2": ("qwen2", {"tie_word_embeddings": False}),
    "qwen3": ("qwen3", {}),
    "mistral": ("mistral-window", {}),
    "mistral full": ("mistral", {}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"attn_logit_softcapping": 2.0}),
    "gemma3": ("gemma3", {"query_pre_attn_scalar": 8, "layer_types": None}),
    "phi3": ("phi3", {}),
    "olmo2": ("olmo2", {}),
}


@pytest.mark.parametrize("name", list(FAMILY))
def test_in_double_precision_a_packed_update_is_that_of_plain_forwards(name):
    """Odd shapes: prompts of one token, completions of none and of one, groups of one, a prompt that comes again.

    What rounds is what transformers does in fp32 whatever the model's type: norms, rotations, the eager softmax.
    """
    kind, settings = FAMILY[name]
    model = make_model(kind, 0, max_position_embeddings=128, bos_token_id=None, **settings).double()
    sequences = [*groups(1, (1, 9, 4), (1, 2, 20), 3), ((9,), ()), *groups(8, (30,), (5,), 1)]
    assert_packed_is_plain(model, sequences + groups(1, (1,), (7,), 2), 2e-6, 1e-6)


def learner_of(model: Any, **settings: Any) -> tuple[Learner, RLConfig]:
    config = config_of(**{"sampling": {"max_tokens": 40}, "micro_batch_tokens": 200} | settings)
    return make_learner(Policy(model, make_tokenizer(), CPU), config, RuntimeConfig(device="cpu")), config


def rows_of(sequences: Sequences) -> list[TrainRow]:
    rng = random.Random(0)
    return [
        TrainRow(
            prompt, Rollout(Completion(done, (-4.0,) * len(done), "stop", ""), reward=1.0, advantage=rng.gauss(0, 1))
        )
        for prompt, done in sequences
    ]


@torch.no_grad()
def assert_scored(learner: Learner, sequences: Sequences) -> None:
    found = torch.tensor([value for line in learner.logprobs(rows_of(sequences)) for value in line])
    torch.testing.assert_close(found, by_themselves(learner.model, sequences, 1.0)[0], rtol=1e-5, atol=1e-5)


def test_each_prompt_goes_through_the_model_once_and_no_padding_does():
    """Counted: tokens through every linear layer and through the head, of an update and of scoring."""
    model = make_model("llama")
    sequences = LAYOUTS["unlike"]
    learner, config = learner_of(model, micro_batch_tokens=10_000)
    prompts = sum(map(len, {prompt for prompt, _ in sequences}))
    trained = sum(len(completion) for _, completion in sequences)
    seen: dict[str, int] = {}

    def count(name: str) -> Any:
        def hook(module: Any, args: Any, output: torch.Tensor) -> None:
            seen[name] = seen.get(name, 0) + output.shape[:-1].numel()

        return hook

    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and "lm_head" not in name}
    for name, module in layers.items():
        module.register_forward_hook(count(name))

    def counted(act: Callable[..., Any], *arguments: Any) -> dict[str, int]:
        seen.clear()
        with Operations() as done:
            act(*arguments)
        return seen | {"head": sum(shape[0] for shape in done.products(VOCAB_SIZE))}

    expected = dict.fromkeys(layers, prompts + trained - len(sequences)) | {"head": trained}
    assert counted(backward, learner, rows_of(sequences), config) == expected
    assert counted(learner.logprobs, rows_of(sequences)) == expected


@pytest.mark.parametrize("budget", [1, 50, 130, 10_000])
def test_a_group_above_the_budget_is_cut_and_scored_all_the_same(budget):
    learner, _ = learner_of(make_model("qwen2", seed=1), micro_batch_tokens=budget)
    assert_scored(learner, groups(7, (20, 4), (30, 12), 8))


# ---- models that it does not fit


def recurrent() -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, state_size=4, num_hidden_layers=1, eos_token_id=EOS, pad_token_id=PAD
    )
    return MambaForCausalLM(config).eval()


def with_biases_by_distance() -> Any:
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    return BloomForCausalLM(BloomConfig(vocab_size=VOCAB_SIZE, hidden_size=16, n_layer=1, n_head=2)).eval()


@pytest.mark.parametrize("make", [recurrent, with_biases_by_distance])
def test_a_model_that_does_not_fit_is_said_once_and_has_padded_rows(make, caplog):
    model = make()
    learner, config = learner_of(model, micro_batch_tokens=100)
    assert not learner.fit.share_prompts
    said = "prompts are not shared and rows are padded"
    assert sum(said in line for line in caplog.messages) == 1
    sequences = groups(7, (9, 4), (5, 12), 3)
    assert_scored(learner, sequences)
    backward(learner, rows_of(sequences), config)
    assert all(p.grad is not None for p in model.parameters())
    assert sum(said in line for line in caplog.messages) == 1


def test_a_softcap_that_the_model_leaves_out_is_noticed(caplog):
    """transformers' SDPA ignores the cap on Gemma 2's scores; prompts are shared only where both agree."""
    model = make_model("gemma2", attn_logit_softcapping=2.0)
    model.set_attn_implementation("sdpa")
    assert not fit_of(model, 1.0).share_prompts
    assert "its states would differ" in caplog.text


def test_a_window_that_attention_is_not_told_of_is_noticed(caplog):
    """The probe is shorter than real windows: config and attention must agree on which layers have one."""
    model = make_model("qwen2", use_sliding_window=True, sliding_window=100, max_window_layers=1)
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
    assert fit_of(model, 1.0).share_prompts
    model.model.layers[1].self_attn.sliding_window = None
    assert not fit_of(model, 1.0).share_prompts
    assert "not told of" in caplog.text


@pytest.mark.parametrize(
    ("kind", "settings", "scale"),
    [("cohere", {"logit_scale": 0.25}, 0.25), ("granite", {"logits_scaling": 8.0}, 0.125)],
)
def test_scaled_logits_are_recognised(kind, settings, scale):
    model = make_model(kind, **settings)
    fit = fit_of(model, 0.9)
    assert fit.shape.scale == pytest.approx(scale, rel=1e-6)
    assert_packed_is_plain(model, LAYOUTS["unlike"], 1e-5, 1e-5)


def test_logits_made_in_another_way_are_refused():
    model = make_model("llama")
    forward = model.forward

    def squared(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        return replace(output, logits=output.logits**2)

    model.forward = squared
    with pytest.raises(UserError, match="logits in a way"):
        fit_of(model, 1.0)


def test_the_model_has_its_own_attention_outside():
    model = make_model("llama")

    def fail() -> None:
        with shared_attention.shared_attention(model):
            assert model.config._attn_implementation == shared_attention.NAME
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert model.config._attn_implementation == "sdpa"


def test_half_precision_is_near():
    """bf16 under autocast, against fp32: queries and keys of Qwen 3 leave their norms in fp32."""
    model = make_model("qwen3", seed=1)
    rows = make_input(LAYOUTS["unlike"], CPU, share_prompts=True)
    with torch.no_grad(), shared_attention.shared_attention(model):
        exact = token_logprobs(model, rows, LogitShape()).logprobs
        with torch.autocast("cpu", torch.bfloat16):
            near = token_logprobs(model, rows, LogitShape()).logprobs
    assert near.dtype == torch.float32
    assert 1e-6 < (near - exact).abs().mean() < 0.1


# ---- gradient checkpointing


def count_calls(modules: list[nn.Module]) -> list[nn.Module]:
    """Grows by one with every forward of any of them."""
    calls: list[nn.Module] = []
    for module in modules:
        module.register_forward_hook(lambda module, *_: calls.append(module))
    return calls


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8, "dropout": 0.3}], ids=["full", "lora"])
def test_activations_made_again_give_the_same_gradient(lora):
    """Counted: layers run twice in an update, once in scoring; dropout drops the same again."""
    from grpo.config.algorithm import LoraConfig
    from grpo.model.adapter import add_adapter

    found = {}
    for again in (False, True):
        model = make_model("qwen2", seed=1)
        if lora:
            model = add_adapter(model, LoraConfig.model_validate(lora), seed=0)
            move(model, 1.0, seed=0)
        extra = {"lora": lora} if lora else {}
        learner, config = learner_of(model, gradient_checkpointing=again, micro_batch_tokens=10_000, **extra)
        forwards = count_calls([module for name, module in model.named_modules() if name.endswith("mlp.act_fn")])
        torch.manual_seed(5)
        backward(learner, rows_of(LAYOUTS["unlike"]), config)
        assert len(forwards) == (4 if again else 2)
        found[again] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        forwards.clear()
        learner.logprobs(rows_of(LAYOUTS["unlike"]))
        assert len(forwards) == 2
        assert not any(module.training for module in model.modules())
    assert found[True].keys() == found[False].keys()
    for name, gradient in found[False].items():
        torch.testing.assert_close(found[True][name], gradient, rtol=1e-5, atol=1e-7)


def test_a_model_without_layers_to_make_again_is_refused():
    model = make_model("llama")
    model.supports_gradient_checkpointing = False
    with pytest.raises(UserError, match="gradient_checkpointing: LlamaForCausalLM does not support it"):
        learner_of(model, gradient_checkpointing=True)
