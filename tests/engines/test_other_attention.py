"""Models whose attention is more than scores and a softmax: the softcap of Gemma 2, which our own attention has, and
those that are sampled by transformers' own `generate`."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from grpo.engines.local.engine import LocalEngine
from grpo.engines.local.trial import tried
from grpo.errors import UserError
from grpo.model.fit import fit_of
from grpo.model.loading.weights import load_model
from grpo.supervised.reward_reader import load_reward_model
from grpo.types import Completion, Group, Sampling
from matrix.architectures import config_of as architecture
from support.groups import random_prompts
from support.models import EOS, IM_END, PAD, VOCAB_SIZE, farthest, make_model, make_tokenizer, save_model


def engine_of(model: Any, max_rows: int = 512) -> LocalEngine:
    return LocalEngine(model, make_tokenizer(), max_rows)


def completions(groups: list[Group]) -> list[Completion]:
    return [rollout.completion for group in groups for rollout in group.rollouts]


def tokens(groups: list[Group]) -> dict[str, list[tuple[int, ...]]]:
    return {g.prompt.id: [r.completion.token_ids for r in g.rollouts] for g in groups}


@pytest.mark.parametrize("cap", [0.5, 50.0])
def test_the_softcap_of_gemma_2_is_in_every_forward(cap, tmp_path):
    """The engine's, the trainer's and the plain one that supervised training, evaluation and reward models use."""
    folder = save_model(tmp_path / "model", "gemma2", seed=2, attn_logit_softcapping=cap, query_pre_attn_scalar=1)
    truth = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    model = load_model(str(folder), torch.device("cpu"))
    prompts = random_prompts(5, seed=1, low=1, high=14)
    groups = engine_of(model, 7).generate(prompts, Sampling(3, 24), seed=0, step=0)
    assert farthest(groups, truth) < 1e-5
    ids = torch.randint(9, VOCAB_SIZE, (2, 12))
    torch.testing.assert_close(model(input_ids=ids).logits, truth(input_ids=ids).logits, rtol=1e-5, atol=1e-5)
    assert fit_of(model, 1.0).share_prompts  # its states are those of the plain forward, in 1e-4
    judge = load_reward_model(str(folder), make_tokenizer(), torch.device("cpu"), new_head=True).eval()
    plain = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, attn_implementation="eager")
    plain.load_state_dict(judge.state_dict())
    plain.config.pad_token_id = PAD
    torch.testing.assert_close(judge(input_ids=ids).logits, plain.eval()(input_ids=ids).logits, rtol=1e-5, atol=1e-5)


OTHERS = ["bloom", "llama4_text", "gpt_oss", "qwen3_5_text", "mamba", "qwen2_moe", "doge", "diffllama", "nemotron"]


def other_model(kind: str) -> Any:
    """ALiBi, chunks, sinks, recurrence, a window or a mask that attention is not told of, two attentions in a layer,
    layers that pass nothing on."""
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_config(architecture(kind), attn_implementation="eager").eval()
    return model.requires_grad_(False)


@pytest.mark.parametrize("kind", OTHERS)
def test_another_kind_of_attention_falls_back_to_generate(kind, caplog):
    """Sampled are the tokens of our own random numbers, whatever samples beside them."""
    model = other_model(kind)
    engine = tried(engine_of(model), "float32")
    assert "sampled by transformers' own generate, which is slower" in caplog.text
    prompts = random_prompts(5, seed=1, low=8, high=11)
    sampling = Sampling(3, 6, 0.9)
    groups = engine.generate(prompts, sampling, seed=0, step=0)
    assert farthest(groups, model, 0.9) < 1e-5
    for prompt in prompts[:2]:
        assert tokens(engine.generate([prompt], sampling, seed=0, step=0))[prompt.id] == tokens(groups)[prompt.id]
    engine.max_rows = 2
    assert tokens(engine.generate(prompts, sampling, seed=0, step=0)) == tokens(groups)


def test_generate_ends_at_end_tokens_and_forgets_the_settings_of_the_model():
    """The same tokens as those of the decoder; a penalty in the generation config does nothing."""
    model = make_model(seed=3, end=[EOS, IM_END, 20, 30])
    prompts = random_prompts(6, seed=2)
    usual = engine_of(model).generate(prompts, Sampling(4, 30), seed=1, step=0)
    model.generation_config.repetition_penalty = 5.0
    before = model.generation_config
    engine = engine_of(model)
    engine.reason = "for this test"
    other = engine.generate(prompts, Sampling(4, 30), seed=1, step=0)
    assert tokens(other) == tokens(usual)
    assert model.generation_config is before
    for one, two in zip(completions(usual), completions(other), strict=True):
        assert one.logprobs == pytest.approx(two.logprobs, abs=1e-5)
        assert one.finish_reason == two.finish_reason


def test_a_model_that_neither_way_gives_what_its_forward_gives_is_refused():
    model = make_model(seed=3)
    plain = model.forward
    model.forward = lambda *a, **k: plain(*a, **k) if "decoding" not in k and not k.get("use_cache") else None
    with pytest.raises(UserError, match=r"cannot sample from Qwen2ForCausalLM: .*; use engine=vllm if vLLM serves it"):
        tried(engine_of(model), "float32")


def test_an_encoder_is_refused():
    with pytest.raises(UserError, match="BertLMHeadModel is not causal"):
        tried(engine_of(other_model("bert")), "float32")
