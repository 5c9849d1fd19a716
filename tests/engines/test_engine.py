"""The embedded engine against transformers itself, and the promises about which tokens it draws."""

import itertools
import math
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import grpo.engines.local.cache as kv_cache
import grpo.engines.local.engine as engine_local
from grpo.engines.draws import draw, keep_top_p, stream_key, uniforms
from grpo.engines.local.decoder import survivors
from grpo.engines.local.engine import LocalEngine, usual_rows
from grpo.errors import UserError
from grpo.learner.batching import BatchPlan, collate, rows_of
from grpo.model.attention import shared_attention
from grpo.model.fit import fit_of
from grpo.model.head import LogitShape
from grpo.model.loading.tokenizer import end_token_ids
from grpo.model.logprobs import token_logprobs
from grpo.model.packing import make_input
from grpo.types import Completion, Group, Sampling
from support.groups import prompt_of, random_prompts
from support.models import (
    BOS,
    EOS,
    IM_END,
    PAD,
    VOCAB_SIZE,
    farthest,
    make_model,
    make_tokenizer,
    model_logprobs,
)

KINDS = ["qwen2", "qwen3", "llama", "mistral", "mistral-window", "gemma2", "gemma3", "gpt2"]


class Counted:
    """A model that notes the shape of the tokens of each forward, their positions, and where logits are asked for."""

    def __init__(self, model: Any):
        self.model = model
        self.shapes: list[tuple[int, ...]] = []
        self.calls: list[tuple[torch.Tensor, Any]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.shapes.append(tuple(kwargs["input_ids"].shape))
        self.calls.append((kwargs["position_ids"], kwargs["logits_to_keep"]))
        return self.model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def engine_of(model: Any, max_rows: int = 512) -> LocalEngine:
    return LocalEngine(model, make_tokenizer(), max_rows)


def completions(groups: list[Group]) -> list[Completion]:
    return [rollout.completion for group in groups for rollout in group.rollouts]


def tokens(groups: list[Group]) -> dict[str, list[tuple[int, ...]]]:
    return {g.prompt.id: [r.completion.token_ids for r in g.rollouts] for g in groups}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_logprobs_are_those_of_a_plain_forward(kind, temperature):
    """Packed prompts, their shared cache, slots that are given on and moved, against one unpadded forward per
    completion. The sequences are longer than the windows of six of the models that have one."""
    model = make_model(kind, seed=2, end=[EOS, IM_END])
    prompts = random_prompts(5, seed=1, low=1, high=14)
    groups = engine_of(model, 7).generate(prompts, Sampling(3, 24, temperature), seed=0, step=0)
    assert all(len(done.logprobs) == len(done.token_ids) for done in completions(groups))
    assert farthest(groups, model, temperature) < 1e-4
    assert len({len(done.token_ids) for done in completions(groups)}) > 1  # rows did finish at different times


@pytest.mark.parametrize("kind", KINDS)
def test_the_trainer_scores_what_the_engine_drew(kind):
    """Prompts shared where the model fits, else right-padded rows: same log-probs (invariant 3)."""
    model = make_model(kind, seed=2)
    fit = fit_of(model, 0.7)
    groups = engine_of(model).generate(random_prompts(4, seed=3), Sampling(3, 20, 0.7), seed=0, step=0)
    rows = rows_of([rewarded(group) for group in groups])
    for batch_rows in BatchPlan(60, fit.share_prompts).micro_batches(rows):
        batch = collate(batch_rows, torch.device("cpu"), share_prompts=fit.share_prompts)
        with shared_attention(model) if fit.share_prompts else nullcontext():
            scores = token_logprobs(model, batch.rows, fit.shape, with_entropy=True)
        assert (batch.by_completion(scores.logprobs) - batch.gen_logprobs).abs().max() < 1e-4
        assert (scores.entropy > 0).all()
        assert scores.entropy.max() <= math.log(VOCAB_SIZE) + 1e-4


def rewarded(group: Group) -> Group:
    return replace(group, rollouts=tuple(replace(r, reward=1.0) for r in group.rollouts))


def test_entropy_is_that_of_the_sampling_distribution():
    model = make_model()
    ids = torch.tensor([[20, 30, 40, 50]])
    rows = make_input([((20, 30), (40, 50))], torch.device("cpu"), share_prompts=False)
    found = token_logprobs(model, rows, LogitShape(0.5), with_entropy=True).entropy
    with torch.no_grad():
        table = (model(input_ids=ids).logits[0, 1:3].double() / 0.5).log_softmax(-1)
    exact = -(table.exp() * table).sum(-1)
    assert found.tolist() == pytest.approx(exact.tolist(), rel=1e-5)


@pytest.mark.parametrize("kind", ["qwen2", "mistral-window", "gemma2", "gpt2"])
def test_greedy_is_argmax_and_transformers_generate(kind):
    model = make_model(kind, seed=4, end=[EOS, IM_END])
    prompts = random_prompts(4, seed=6, low=3)
    groups = engine_of(model).generate(prompts, Sampling(2, 16, 0.0), seed=0, step=0)
    for group in groups:
        first, second = (r.completion.token_ids for r in group.rollouts)
        assert first == second
        ids = torch.tensor([group.prompt_ids])
        found = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=16, pad_token_id=0
        )
        assert list(first) == found[0, len(group.prompt_ids) :].tolist()


@pytest.mark.parametrize("end", [EOS, [IM_END], [EOS, IM_END], [IM_END, 40]])
def test_every_end_token_stops_and_is_the_last(end):
    """Those of the generation config, and the tokenizer's own."""
    model = make_model(seed=1, end=end)
    model.generation_config.eos_token_id = end
    expected = {EOS, *(end if isinstance(end, list) else [end])}
    engine = engine_of(model)
    assert set(engine.end_ids) == expected == set(end_token_ids(model, engine.tokenizer))
    groups = engine.generate(random_prompts(40), Sampling(6, 40), seed=1, step=0)
    last: Counter[int] = Counter()
    for completion in completions(groups):
        assert not expected & set(completion.token_ids[:-1])
        stopped = completion.token_ids[-1] in expected
        assert completion.finish_reason == ("stop" if stopped else "length")
        if not stopped:
            assert len(completion.token_ids) == 40
        last[completion.token_ids[-1]] += 1
    assert all(last[token] for token in expected)
    assert sum(last[token] for token in expected) < last.total()  # and truncated ones exist


def test_an_end_token_at_the_limit_is_a_stop_not_a_cut():
    model = make_model(seed=1, end=EOS)
    groups = engine_of(model).generate(random_prompts(60), Sampling(8, 1), seed=1, step=0)
    ends = {(done.token_ids[0] == EOS, done.finish_reason) for done in completions(groups)}
    assert ends == {(True, "stop"), (False, "length")}


def test_the_text_is_that_of_the_sampled_ids_without_end_and_padding():
    """Other special tokens stay: thinking, channels and tool calls are marked with them."""
    engine = engine_of(make_model(seed=1))
    texts = []
    for completion in completions(engine.generate(random_prompts(4), Sampling(4, 20), seed=1, step=0)):
        kept = [token for token in completion.token_ids if token not in (PAD, *engine.end_ids)]
        assert completion.text == engine.tokenizer.decode(kept)
        assert "</s>" not in completion.text
        texts.append(completion.text)
    assert any("<|user|>" in text for text in texts)


def test_tokens_do_not_depend_on_the_company():
    """Invariant 9: neither batch composition, nor max_rows, nor the order of the prompts changes any token."""
    model = make_model(seed=3)
    prompts = random_prompts(6, seed=2, low=1, high=20)
    sampling = Sampling(3, 20)
    expected = tokens(engine_of(model).generate(prompts, sampling, seed=5, step=7))
    for max_rows in (1, 5, 9, 16):
        assert tokens(engine_of(model, max_rows).generate(prompts, sampling, seed=5, step=7)) == expected
    backwards = engine_of(model).generate(prompts[::-1], sampling, seed=5, step=7)
    assert [g.prompt for g in backwards] == prompts[::-1]  # groups come in the order asked
    assert tokens(backwards) == expected
    for prompt in prompts:
        alone = engine_of(model).generate([prompt], sampling, seed=5, step=7)
        assert tokens(alone)[prompt.id] == expected[prompt.id]


def test_a_larger_group_or_a_lower_limit_keeps_the_first_tokens():
    model = make_model(seed=3)
    prompts = random_prompts(3)
    small = tokens(engine_of(model).generate(prompts, Sampling(2, 8), seed=5, step=7))
    large = tokens(engine_of(model).generate(prompts, Sampling(5, 20), seed=5, step=7))
    for name, completions in small.items():
        assert [c[:8] for c in large[name][:2]] == completions


@pytest.mark.parametrize("turnover", [0.0, 1.0])
def test_when_slots_are_given_on_changes_nothing(turnover, monkeypatch):
    """At once, when all have finished, as usual: the same tokens, and log-probs up to rounding."""
    model = make_model(seed=3, end=[EOS, IM_END, 20, 30])
    prompts = random_prompts(12, seed=2)
    usual = engine_of(model, 16).generate(prompts, Sampling(4, 30), seed=1, step=0)
    monkeypatch.setattr(engine_local, "TURNOVER", turnover)
    other = engine_of(model, 16).generate(prompts, Sampling(4, 30), seed=1, step=0)
    assert tokens(other) == tokens(usual)
    for one, two in zip(completions(usual), completions(other), strict=True):
        assert one.logprobs == pytest.approx(two.logprobs, abs=1e-5)


def test_the_cache_grows_when_its_columns_are_used_up(monkeypatch):
    model = make_model(seed=3, end=EOS)
    model.generation_config.eos_token_id = None
    prompts = random_prompts(2, low=3)
    roomy = tokens(engine_of(model).generate(prompts, Sampling(2, 40), seed=1, step=0))
    monkeypatch.setattr(kv_cache, "FIRST_COLUMNS", 1)
    assert tokens(engine_of(model).generate(prompts, Sampling(2, 40), seed=1, step=0)) == roomy


def work(counted: Counted) -> tuple[list[int], list[int]]:
    """Tokens of each prefill and of each decoding step, in flat rows. Only a prefill begins at position 0."""
    assert all(rows == 1 for rows, _ in counted.shapes)
    prefills, decoded = [], []
    for (_, size), (positions, _) in zip(counted.shapes, counted.calls, strict=True):
        (prefills if positions[0, 0] == 0 else decoded).append(size)
    return prefills, decoded


def test_each_prompt_token_goes_through_once_and_finished_completions_leave():
    counted = Counted(make_model(seed=3, end=[EOS, IM_END, 20, 30, 40]))
    prompts = random_prompts(6, seed=2, low=3, high=10)
    groups = engine_of(counted).generate(prompts, Sampling(8, 30), seed=1, step=0)
    prefills, decoded = work(counted)
    assert prefills == [sum(len(p.token_ids) for p in prompts)]  # one forward, and no padding in it
    lengths = [len(done.token_ids) for done in completions(groups)]
    assert len(decoded) == max(lengths) - 1  # nothing is computed for the token after the last
    assert decoded == sorted(decoded, reverse=True)
    assert sum(decoded) <= 1.08 * sum(length - 1 for length in lengths)
    assert decoded[-1] == sum(length == max(lengths) for length in lengths)


@pytest.mark.parametrize(("slots", "size", "count"), [(5, 4, 20), (16, 4, 24), (64, 8, 40), (40, 16, 20)])
def test_slots_are_refilled(slots, size, count):
    """Decoding steps close to (tokens to decode) / slots, every prompt token once, and never more than the slots."""
    counted = Counted(make_model(seed=3, end=[EOS, IM_END, 20]))
    prompts = random_prompts(count, seed=2, low=3, high=10)
    groups = engine_of(counted, slots).generate(prompts, Sampling(size, 48), seed=1, step=0)
    lengths = [len(done.token_ids) for done in completions(groups)]
    assert max(lengths) == 48
    assert np.median(lengths) < 24  # long-tailed: in waves of one batch, most slots would be idle most of the time
    prefills, decoded = work(counted)
    assert sum(prefills) == sum(len(p.token_ids) for p in prompts)
    needed = sum(length - 1 for length in lengths)
    assert max(decoded) == min(slots, size * len(prompts))
    assert needed <= sum(decoded) <= 1.1 * needed
    assert needed / slots <= len(decoded) <= 1.1 * needed / slots + 47  # the last ones finish in emptying slots


def test_prefills_are_batched_up_to_a_number_of_tokens(monkeypatch):
    counted = Counted(make_model(seed=3))
    prompts = [prompt_of(range(20, 20 + n), f"p{n}") for n in (30, 12, 9, 8, 8, 7)]
    expected = tokens(engine_of(counted).generate(prompts, Sampling(2, 6), seed=1, step=0))
    assert work(counted)[0] == [74]
    monkeypatch.setattr(engine_local, "PREFILL_TOKENS", 24)
    counted = Counted(make_model(seed=3))
    assert tokens(engine_of(counted).generate(prompts, Sampling(2, 6), seed=1, step=0)) == expected
    assert work(counted)[0] == [30, 21, 23]  # longest first; one that is longer than the limit goes alone


def test_logits_are_made_of_the_last_prompt_tokens_only():
    counted = Counted(make_model(seed=3))
    prompts = random_prompts(5, low=3)
    engine_of(counted).generate(prompts, Sampling(2, 1), seed=1, step=0)
    assert len(counted.shapes) == 1
    ends = np.cumsum(sorted((len(p.token_ids) for p in prompts), reverse=True)) - 1
    assert counted.calls[0][1].tolist() == ends.tolist()


def test_survivors_move_as_few_as_they_can():
    alive = np.array([True, False, True, False, False, True, True])
    assert survivors(alive).tolist() == [0, 5, 2, 6]
    assert survivors(np.ones(3, bool)).tolist() == [0, 1, 2]
    assert survivors(np.zeros(3, bool)).tolist() == []


def test_row_counts_that_come_up_are_few():
    assert [usual_rows(n) for n in (0, 1, 31, 32, 33, 35, 64, 65, 255, 257)] == [0, 1, 31, 32, 34, 36, 64, 68, 256, 272]
    assert all(n <= usual_rows(n) <= n + n / 16 for n in range(600))
    counted = Counted(make_model(seed=3, end=[EOS, IM_END, 20, 30]))
    engine_of(counted).generate(random_prompts(25, seed=2), Sampling(8, 40), seed=1, step=0)
    decoded = work(counted)[1]
    assert decoded[0] > 128  # all that did not end with their first token
    assert all(n == usual_rows(n) for n in decoded if n != decoded[0])


def test_no_prompts_no_forward():
    counted = Counted(make_model())
    assert engine_of(counted).generate([], Sampling(2, 4), seed=0, step=0) == []
    assert counted.shapes == []


@pytest.mark.parametrize("kind", ["qwen3", "gemma3", "gpt2"])
def test_bfloat16_autocast_agrees_with_a_plain_forward_as_well_as_bfloat16_can(kind):
    """As accelerate runs it: fp32 weights, autocast inside the model's forward. The difference to a plain forward in
    bfloat16 is of the size of the one between that and fp32."""
    model = make_model(kind, seed=2, initializer_range=0.08)
    plain = model.forward

    def autocast(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return plain(*args, **kwargs)

    model.forward = autocast
    groups = engine_of(model).generate(random_prompts(6, seed=1), Sampling(4, 20), seed=0, step=0)
    mismatch, rounding = [], []
    for group in groups:
        for done in (r.completion for r in group.rollouts):
            model.forward = autocast
            half = model_logprobs(model, group.prompt_ids, done.token_ids)
            model.forward = plain
            exact = model_logprobs(model, group.prompt_ids, done.token_ids)
            mismatch.append((torch.tensor(done.logprobs).double() - half).abs())
            rounding.append((half - exact).abs())
    assert 0 < torch.cat(rounding).mean() < 0.02
    assert torch.cat(mismatch).mean() < 1.5 * torch.cat(rounding).mean()
    assert torch.cat(mismatch).max() < 2 * torch.cat(rounding).max()


def test_autocast_casts_each_weight_once_a_call():
    model = make_model("gemma2", seed=2)  # whose layers are not fused
    plain, casts = model.forward, []

    def autocast(*args: Any, **kwargs: Any) -> Any:
        with torch.profiler.profile(record_shapes=True) as profile, torch.autocast("cpu", torch.bfloat16):
            output = plain(*args, **kwargs)
        matrices = [e for e in profile.events() if e.name == "aten::_to_copy" and len(e.input_shapes[0]) == 2]
        casts.append(len(matrices))
        return output

    model.forward = autocast
    engine_of(model).generate(random_prompts(2), Sampling(2, 4), seed=0, step=0)
    assert casts == [2 * 7 + 1, 0, 0, 0]  # of the layers and the head


def test_generation_leaves_the_model_trainable():
    model = make_model()
    attention = model.config._attn_implementation
    engine_of(model).generate(random_prompts(2), Sampling(2, 4), seed=0, step=0)
    assert model.config._attn_implementation == attention
    model(input_ids=torch.tensor([[20, 30]])).logits.sum().backward()
    assert not model.training


def test_no_two_streams_are_equal():
    """vLLM seeds siblings with seed, seed + 1, ...: there, consecutive prompt seeds share streams. Here, none do."""
    keys = [stream_key(*key) for key in itertools.product(range(4), range(10), "ab", ("1", "11", "x"), range(12))]
    assert len(set(keys)) == len(keys)
    draws = np.stack([uniforms(np.array(keys, np.uint64), position) for position in range(8)])
    assert len(np.unique(draws)) == draws.size
    # nor is a stream another one a few positions later
    windows = Counter(tuple(column[i : i + 3]) for column in draws.T for i in range(6))
    assert max(windows.values()) == 1


def test_streams_are_the_same_on_every_machine():
    assert stream_key(0, 1, "default", "p", 2) == 0x1C34D574B8770548  # BLAKE2b, little endian: b2sum -l 64
    assert stream_key("a", "b") != stream_key("ab")
    # splitmix64 of seed 0 gives 0xE220A8397B1DCDAF first (the reference implementation's published value)
    first = uniforms(np.array([0], np.uint64), 0)[0]
    assert first == ((0xE220A8397B1DCDAF >> 11) + 0.5) * 2.0**-53


def test_uniforms_are_uniform_and_inside_the_interval():
    keys = np.array([stream_key("u", i) for i in range(4000)], np.uint64)
    values = np.concatenate([uniforms(keys, position) for position in (0, 1, 1000)])
    assert values.min() > 0
    assert values.max() < 1
    counts, _ = np.histogram(values, bins=20, range=(0, 1))
    expected = len(values) / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # chi-square, 19 degrees of freedom, p = 0.001


def test_seed_and_step_change_the_tokens_and_siblings_differ():
    model = make_model(seed=3)
    prompts = random_prompts(4)
    seen = set()
    for seed, step in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]:
        for group in engine_of(model).generate(prompts, Sampling(6, 20), seed=seed, step=step):
            seen.update((group.prompt.id, r.completion.token_ids[:12]) for r in group.rollouts)
    assert len(seen) > 5 * 4 * 6 - 6  # a few may have stopped at once


PROBABILITIES = [0.5, 0.25, 0.125, 0.1, 0.02, 0.005]


def chi_square(tokens: torch.Tensor, probabilities: list[float]) -> float:
    counts = torch.bincount(tokens, minlength=len(probabilities)).double()
    expected = torch.tensor(probabilities).double() * len(tokens)
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_20000_draws_follow_the_distribution(temperature):
    keys = np.array([stream_key("chi", i) for i in range(20_000)], np.uint64)
    logits = torch.tensor(PROBABILITIES).log()[None].expand(20_000, -1) + 3.0
    drawn, logprobs = draw(logits, torch.from_numpy(uniforms(keys, 3)), temperature, 1.0)
    exact = torch.tensor(PROBABILITIES).double().pow(1 / temperature)
    exact = exact / exact.sum()
    assert chi_square(drawn, exact.tolist()) < 20.5  # 5 degrees of freedom, p = 0.001
    torch.testing.assert_close(logprobs.double(), exact[drawn].log(), rtol=0, atol=1e-5)


def test_an_impossible_token_is_never_drawn():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]]).expand(6, -1)
    extremes = torch.tensor([2.0**-54, 1e-9, 0.4999999, 0.5000001, 1 - 2.0**-53, 1.0], dtype=torch.float64)
    drawn, logprobs = draw(logits, extremes, 1.0, 1.0)
    assert drawn.tolist() == [1, 1, 1, 3, 3, 3]
    assert logprobs.tolist() == pytest.approx([-math.log(2)] * 6)


def test_greedy_draws_the_argmax_and_reports_logprobs_at_temperature_one():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    drawn, logprobs = draw(logits, torch.tensor([0.999, 0.999], dtype=torch.float64), 0.0, 0.5)
    assert drawn.tolist() == [1, 0]
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[[0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.3, [0]), (0.5, [0]), (0.51, [0, 1]), (0.75, [0, 1]), (0.8, [0, 1, 2]), (1.0, [0, 1, 2, 3])]
)
def test_top_p_keeps_the_smallest_set_that_reaches_the_mass(top_p, kept):
    # out of order on purpose: 1/8, 1/2, 1/8, 1/4 -> ranks 1, 3, then the ties
    probabilities = torch.tensor([[0.0625, 0.5, 0.1875, 0.25]])
    ranked = [1, 3, 2, 0]
    found = keep_top_p(probabilities, top_p)[0]
    assert sorted(found.nonzero().flatten().tolist()) == sorted(ranked[i] for i in kept)
    assert all(found[i] == probabilities[0, i] for i in range(4) if found[i] > 0)


def test_top_p_draws_follow_the_renormalised_distribution():
    keys = np.array([stream_key("top", i) for i in range(20_000)], np.uint64)
    logits = torch.tensor(PROBABILITIES).log()[None].expand(20_000, -1)
    drawn, _ = draw(logits, torch.from_numpy(uniforms(keys, 0)), 1.0, 0.8)
    assert drawn.max() <= 2  # 0.5 + 0.25 + 0.125 reaches 0.8
    assert chi_square(drawn, [0.5 / 0.875, 0.25 / 0.875, 0.125 / 0.875]) < 13.8  # 2 degrees of freedom


def test_a_model_without_an_end_token_is_refused():
    model = make_model()
    model.generation_config.eos_token_id = None
    silent = make_tokenizer()
    silent.eos_token = None
    with pytest.raises(UserError, match="end token"):
        LocalEngine(model, silent, 8)


def test_padding_equal_to_the_end_token_is_harmless():
    """`pad = eos`, as many models ship: the end token is still trained and still ends."""
    model = make_model(seed=1)
    engine = engine_of(model)
    engine.tokenizer.pad_token = engine.tokenizer.eos_token
    groups = engine.generate([prompt_of([BOS, 20, 30]), prompt_of([20], "q")], Sampling(8, 40), seed=0, step=0)
    assert any(done.finish_reason == "stop" for done in completions(groups))
    for group in groups:
        for row in rows_of([rewarded(group)]):
            batch = collate([row], torch.device("cpu"))
            assert batch.mask.sum() == len(row.rollout.completion.token_ids)
