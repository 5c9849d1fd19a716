"""vLLM in this process against plain transformers: after syncs, at two temperatures, whole weights and adapters."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo.config.algorithm import LoraConfig
from grpo.config.engine import EngineConfig, RuntimeConfig
from grpo.engines.choose import load_for_sampling, sampling_engine, training_engine
from grpo.engines.vllm.in_process import MEMORY_FOLDER, VllmEngine
from grpo.engines.vllm.request import COLDEST
from grpo.engines.vllm.start import ServedModel
from grpo.errors import UserError
from grpo.model.policy import Policy, load_policy
from grpo.types import Sampling
from support.groups import prompt_of, random_prompts
from support.models import EOS, IM_END, PAD, VOCAB_SIZE, farthest, make_tokenizer, move
from support.vllm_runs import save_for_vllm

pytestmark = pytest.mark.vllm

CPU = RuntimeConfig(device="cpu")
LONGEST = 80


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny Qwen3 whose generation config asks for a repetition penalty, top-k and a temperature: not to be heeded."""
    unheeded = {"repetition_penalty": 1.5, "top_k": 5, "temperature": 0.3, "do_sample": True}
    return save_for_vllm(tmp_path_factory.mktemp("models") / "tiny", unheeded)


@contextmanager
def engine_of(folder: Path, adapter: LoraConfig | None = None, **settings: Any) -> Iterator[tuple[VllmEngine, Policy]]:
    policy = load_policy(str(folder), CPU, adapter, seed=0)
    config = EngineConfig.model_validate({"kind": "vllm", "vllm": {"kv_cache_gib": 0.1, **settings}})
    engine = training_engine(config, policy, CPU, name=str(folder), longest=LONGEST, model=policy.model, lora=adapter)
    assert isinstance(engine, VllmEngine)
    try:
        yield engine, policy
    finally:
        engine.close()


LORA = LoraConfig(r=4, alpha=8)


@pytest.mark.parametrize(
    ("adapter", "settings"),
    [(None, {}), (LORA, {"lora": "merged"}), (LORA, {"lora": "adapter"}), (None, {"tensor_parallel": 2})],
)
def test_logprobs_are_the_trainers_after_every_sync(folder, adapter, settings):
    torch.manual_seed(0)
    with engine_of(folder, adapter, **settings) as (engine, policy):
        prompts = random_prompts(8)
        for updates in range(21):
            engine.sync(policy)
            if updates in (0, 1, 20):
                for temperature in (1.0, 0.7):
                    groups = engine.generate(prompts, Sampling(4, 20, temperature), seed=0, step=updates)
                    assert farthest(groups, policy.model, temperature) < 1e-4
            move(policy.model, 0.01 if adapter is None else 0.05)
        assert farthest(groups, policy.model, 0.7) > 1e-2  # the comparison tells weights apart


def test_what_comes_back(folder):
    """Order of prompts and siblings, end tokens, limits, versions, text."""
    with engine_of(folder) as (engine, policy):
        engine.sync(policy)
        prompts = random_prompts(12, seed=3)
        groups = engine.generate(prompts, Sampling(5, 40), seed=0, step=7)
        assert [group.prompt for group in groups] == prompts
        completions = [rollout.completion for group in groups for rollout in group.rollouts]
        assert len(completions) == 60
        ends = Counter(c.token_ids[-1] for c in completions if c.finish_reason == "stop")
        assert set(ends) == {EOS, IM_END}  # every end token ends, and is the last token
        for c in completions:
            assert not {EOS, IM_END} & set(c.token_ids[:-1])
            assert (c.finish_reason == "length") == (len(c.token_ids) == 40 and c.token_ids[-1] not in (EOS, IM_END))
            assert c.version == 7
            kept = [token for token in c.token_ids if token not in (PAD, EOS, IM_END)]
            assert c.text == make_tokenizer().decode(kept)
        assert engine.generate([], Sampling(5, 40), seed=0, step=7) == []


def test_streams_never_repeat(folder):
    """One prompt under other ids, in other steps, tasks and seeds, and all siblings: no stream twice, and each stream
    is its own again."""
    with engine_of(folder) as (engine, policy):
        engine.sync(policy)
        ids = random_prompts(1, low=6, high=7)[0].token_ids
        sampling = Sampling(4, 24)

        def drawn(names: list[str], seed: int = 0, step: int = 0, task: str = "a") -> list[tuple[int, ...]]:
            groups = engine.generate([prompt_of(ids, n, task) for n in names], sampling, seed=seed, step=step)
            return [r.completion.token_ids for g in groups for r in g.rollouts]

        names = [str(number) for number in range(20)]
        streams = drawn(names) + drawn(["0"], step=1) + drawn(["0"], seed=1) + drawn(["0"], task="b")
        long = [stream for stream in streams if len(stream) == 24]
        assert len(long) > 20
        assert len(set(long)) == len(long)
        assert drawn(["7", "3"]) == streams[28:32] + streams[12:16]  # whatever else is in the batch


def test_more_prompt_tokens_than_one_pass_takes(folder):
    """No prompt is computed in parts: the CPU's generators could not be given to it."""
    with engine_of(folder) as (engine, policy):
        engine.sync(policy)
        prompts = random_prompts(400, seed=9, low=50, high=70)
        assert sum(len(prompt.token_ids) for prompt in prompts) > 16384
        groups = engine.generate(prompts, Sampling(1, 4), seed=0, step=0)
        assert farthest(groups[::20], policy.model, 1.0) < 1e-4
        alone = engine.generate(prompts[200:201], Sampling(1, 4), seed=0, step=0)
        assert alone[0].rollouts[0].completion.token_ids == groups[200].rollouts[0].completion.token_ids


def test_stop_strings_end_a_completion_and_stay_in_it(folder):
    with engine_of(folder) as (engine, policy):
        engine.sync(policy)
        groups = engine.generate(random_prompts(8), Sampling(8, 40, stop=("a", "7")), seed=0, step=0)
        completions = [rollout.completion for group in groups for rollout in group.rollouts]
        stopped = [c for c in completions if c.text and c.text[-1] in "a7"]
        assert len(stopped) > 10
        assert all(c.finish_reason == "stop" for c in stopped)
        before = [policy.tokenizer.decode(c.token_ids[:-1]) for c in completions]
        assert not any(letter in text for text in before for letter in "a7")
        assert farthest(groups, policy.model, 1.0) < 1e-4


def test_a_special_token_is_a_stop_string_too(folder):
    with engine_of(folder) as (engine, policy):
        engine.sync(policy)
        groups = engine.generate(random_prompts(8), Sampling(8, 40, stop=("<|user|>",)), seed=0, step=0)
        texts = [policy.tokenizer.decode(r.completion.token_ids) for group in groups for r in group.rollouts]
        assert sum(text.endswith("<|user|>") for text in texts) > 5
        assert not any("<|user|>" in text.removesuffix("<|user|>") for text in texts)


def test_vllms_lowest_temperature():
    from vllm.sampling_params import _MAX_TEMP

    assert COLDEST == _MAX_TEMP


def test_greedy_and_top_p(folder):
    with engine_of(folder) as (engine, policy):
        engine.sync(policy)
        prompt = random_prompts(1, low=6, high=7)[0]
        greedy = engine.generate([prompt], Sampling(1, 8, 0.0), seed=0, step=0)[0].rollouts[0].completion
        ids = list(prompt.token_ids)
        for token in greedy.token_ids:
            with torch.no_grad():
                logits = policy.model(input_ids=torch.tensor([ids])).logits[0, -1]
            assert token == int(logits.argmax())
            ids.append(token)
        with torch.no_grad():
            first = policy.model(input_ids=torch.tensor([prompt.token_ids])).logits[0, -1].softmax(-1)
        ordered = first.sort(descending=True)
        nucleus = ordered.indices[(ordered.values.cumsum(0) - ordered.values) < 0.5].tolist()
        groups = engine.generate([prompt], Sampling(400, 1, 1.0, 0.5), seed=0, step=0)
        assert {r.completion.token_ids[0] for r in groups[0].rollouts} == set(nucleus)


@pytest.mark.parametrize("kind", ["local", "vllm"])
def test_samples_follow_the_distribution(folder, kind):
    """20,000 completions of two tokens by each engine against the exact probabilities, at T = 0.7."""
    policy = load_policy(str(folder), CPU)
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(3)  # fewer likely tokens: larger expected counts
    prompt = random_prompts(1, low=5, high=6)[0]
    config = EngineConfig(kind=kind, vllm={"kv_cache_gib": 0.2} if kind == "vllm" else {})  # type: ignore[arg-type]
    engine = training_engine(config, policy, CPU, name=str(folder), longest=LONGEST, model=policy.model)
    engine.sync(policy)
    prompts = [prompt_of(prompt.token_ids, str(i)) for i in range(20)]
    groups = engine.generate(prompts, Sampling(1000, 2, 0.7), seed=5, step=0)
    engine.close()
    counts = Counter(r.completion.token_ids for g in groups for r in g.rollouts)
    assert sum(counts.values()) == 20_000
    statistic, cells = chi_square(counts, exact(policy, prompt.token_ids, 0.7))
    assert cells > 50
    # Chi-square with many degrees of freedom is nearly normal; 4 sigma is a p-value of 3e-5.
    assert abs(statistic - (cells - 1)) < 4 * math.sqrt(2 * (cells - 1))


@torch.no_grad()
def exact(policy: Policy, ids: tuple[int, ...], temperature: float) -> dict[tuple[int, ...], float]:
    """The probability of every completion of at most two tokens."""
    first = (policy.model(input_ids=torch.tensor([ids])).logits[0, -1].double() / temperature).softmax(-1)
    table: dict[tuple[int, ...], float] = {}
    rows = torch.tensor([[*ids, token] for token in range(VOCAB_SIZE)])
    second = (policy.model(input_ids=rows).logits[:, -1].double() / temperature).softmax(-1)
    for a in range(VOCAB_SIZE):
        if a in (EOS, IM_END):
            table[(a,)] = float(first[a])
            continue
        for b in range(VOCAB_SIZE):
            table[(a, b)] = float(first[a] * second[a, b])
    return table


def chi_square(counts: Counter[tuple[int, ...]], probabilities: dict[tuple[int, ...], float]) -> tuple[float, int]:
    """(statistic, cells); cells with fewer than 10 expected samples are one."""
    total = sum(counts.values())
    statistic, cells, rest, seen = 0.0, 0, 0.0, 0
    for key, probability in probabilities.items():
        expected = probability * total
        if expected < 10:
            rest, seen = rest + expected, seen + counts[key]
            continue
        statistic, cells = statistic + (counts[key] - expected) ** 2 / expected, cells + 1
    return statistic + (seen - rest) ** 2 / rest, cells + 1


def test_evaluation_samples_the_folder_itself(folder):
    policy = load_policy(str(folder), CPU)
    config = EngineConfig(kind="vllm", vllm={"kv_cache_gib": 0.1})
    outline = load_for_sampling(str(folder), config, CPU)
    assert all(parameter.device.type == "meta" for parameter in outline.parameters())  # read once, by vLLM
    engine = sampling_engine(config, outline, policy.tokenizer, CPU, name=str(folder), longest=LONGEST)
    try:
        groups = engine.generate(random_prompts(4), Sampling(2, 20, 0.6, 0.95), seed=0, step=0)
        plain = engine.generate(random_prompts(4), Sampling(2, 20, 0.6), seed=0, step=0)
    finally:
        engine.close()
    assert len(groups) == 4
    assert farthest(plain, policy.model, 0.6) < 1e-4


def test_a_vllm_for_another_device_is_refused(folder):
    sampled = ServedModel(str(folder), make_tokenizer(), (EOS,), LONGEST, "cuda", "float32")
    with pytest.raises(UserError, match=r"built for 'cpu' and the run is on 'cuda' \(runtime.device\)"):
        VllmEngine(EngineConfig(kind="vllm"), sampled)


def test_what_vllm_cannot_start_with_is_one_line(folder, tmp_path):
    policy = load_policy(str(folder), CPU)
    config = EngineConfig(kind="vllm", vllm={"kv_cache_gib": 0.1})
    before = set(MEMORY_FOLDER.iterdir())
    with pytest.raises(UserError, match=r"vLLM cannot start: .*max_model_len \(100000\) is greater") as caught:
        training_engine(config, policy, CPU, name=str(folder), longest=100_000, model=policy.model)
    assert "\n" not in str(caught.value)
    assert not [file for file in set(MEMORY_FOLDER.iterdir()) - before if file.name.startswith("grpo-")]
