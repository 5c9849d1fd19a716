"""Layers as the embedded engine computes them, against the model's own in float64; and what they don't do."""

import copy
from collections import Counter
from typing import Any

import pytest
import torch

from grpo.config.algorithm import LoraConfig
from grpo.engines.local.engine import LocalEngine
from grpo.engines.local.fused import FusedLayer, fused_layers
from grpo.model.adapter import add_adapter, merged_tensors
from grpo.types import Group, Sampling
from support.groups import random_prompts
from support.models import farthest, make_model, make_tokenizer, model_logprobs, move

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("qwen2", {}),
    ("qwen3", {}),
    ("qwen3", {"attention_bias": True}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"head_dim": 12, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    ("mistral", {"num_key_value_heads": 4}),
    ("mistral-window", {}),
]


def unusual(kind: str, **settings: Any) -> Any:
    """A model whose norms and biases are not the ones and zeros that models begin with."""
    model = make_model(kind, seed=2, **settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
    return model


def generate(model: Any) -> list[Group]:
    return LocalEngine(model, make_tokenizer(), 8).generate(random_prompts(5, seed=1), Sampling(3, 24), seed=0, step=0)


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_fused_layers_are_the_models_own_up_to_rounding(kind, settings):
    model = unusual(kind, **settings)
    with fused_layers(model):
        assert all(isinstance(layer.forward, FusedLayer) for layer in model.model.layers)
    assert not any("forward" in vars(module) for module in model.modules())
    assert farthest(generate(model), copy.deepcopy(model).double()) < 2e-5


def test_an_adapter_is_added_to_the_weights():
    adapted = add_adapter(unusual("qwen2"), LoraConfig(r=4, alpha=8, targets="all-linear"))
    plain = unusual("qwen2")
    move(adapted, 0.1)
    assert farthest(generate(adapted), copy.deepcopy(plain).double()) > 0.1
    plain.load_state_dict(dict(merged_tensors(adapted)))
    assert farthest(generate(adapted), plain.double()) < 2e-5


def operations(model: Any) -> tuple[Counter[str], int]:
    """What a call of the engine runs, and its forwards."""
    forwards = []
    with torch.profiler.profile() as profile:
        hook = model.register_forward_hook(lambda *_: forwards.append(1))
        generate(model)
        hook.remove()
    return Counter(event.name for event in profile.events()), len(forwards)


def test_five_products_a_layer_and_weights_packed_once_a_call():
    counted, forwards = operations(make_model("qwen3"))
    assert counted["aten::linear"] == counted["aten::silu"] == 0
    assert counted["mkldnn::_linear_pointwise"] == forwards * (2 * 5 + 1)  # two layers, and the head
    assert counted["mkldnn::_reorder_linear_weight"] == 2 * 5 + 1


def halved(model: Any, how: str) -> Any:
    """In bf16: its weights, or its forwards under autocast as a trainer's are."""
    if how == "weights":
        return model.bfloat16()
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    return model


def usual_gap(groups: list[Group], model: Any) -> float:
    """Mean difference between the engine's log-probs and the model's."""
    gaps = [
        torch.tensor(done.logprobs, dtype=torch.float64) - model_logprobs(model, group.prompt_ids, done.token_ids)
        for group in groups
        for done in (rollout.completion for rollout in group.rollouts)
    ]
    return float(torch.cat(gaps).abs().mean())


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no products in bf16")
class TestInHalfPrecision:
    @pytest.mark.parametrize("how", ["autocast", "weights"])
    @pytest.mark.parametrize(("kind", "settings"), KINDS)
    def test_no_further_off_than_the_models_own(self, kind, settings, how, monkeypatch):
        """By the mean over the tokens, of which each way draws its own."""
        model = unusual(kind, **settings)
        exact = copy.deepcopy(model).double()
        ours = usual_gap(generate(halved(model, how)), exact)
        monkeypatch.setattr("grpo.engines.local.fused._types", list)
        theirs = usual_gap(generate(model), exact)
        assert 0 < ours < 1.5 * theirs

    @pytest.mark.parametrize("how", ["autocast", "weights"])
    def test_the_same_products(self, how):
        counted, forwards = operations(halved(make_model("qwen3"), how))
        assert counted["aten::linear"] == counted["aten::silu"] == 0
        assert counted["mkldnn::_linear_pointwise"] == forwards * (2 * 5 + 1)
        assert counted["mkldnn::_reorder_linear_weight"] == 2 * 5 + 1

    def test_an_adapter_is_not_rounded_away(self):
        adapted = add_adapter(unusual("qwen2"), LoraConfig(r=4, alpha=8, targets="all-linear"))
        move(adapted, 0.1)
        counted, _ = operations(halved(adapted, "autocast"))
        assert counted["mkldnn::_reorder_linear_weight"] == 1  # the head, which has none


@pytest.mark.parametrize(
    ("kind", "settings", "dtype"),
    [
        ("gemma2", {}, torch.float32),
        ("gpt2", {}, torch.float32),
        ("llama", {"hidden_act": "gelu"}, torch.float32),
        ("llama", {}, torch.float16),
    ],
)
def test_other_layers_and_other_types_stay_as_they_are(kind, settings, dtype):
    model = make_model(kind, **settings).to(dtype)
    with fused_layers(model):
        assert not any("forward" in vars(module) for module in model.modules())


def test_what_stands_in_for_a_forward_already_is_left_alone():
    model = make_model("llama")
    own = model.model.layers[0].forward
    model.model.layers[0].forward = own
    with fused_layers(model):
        assert model.model.layers[0].forward is own
        assert isinstance(model.model.layers[1].forward, FusedLayer)
    assert model.model.layers[0].forward is own


def test_a_failure_leaves_the_model_as_it_was():
    model = make_model("llama")
    with pytest.raises(ZeroDivisionError), fused_layers(model):
        raise ZeroDivisionError
    assert not any("forward" in vars(module) for module in model.modules())
