"""Adapters on mixtures of experts: where they are put, and that what is saved is the model that was trained."""

from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from grpo.config.algorithm import LoraConfig
from grpo.errors import UserError
from grpo.model.adapter import add_adapter
from grpo.model.adapter_targets import fused_experts, target_names
from grpo.model.policy import Policy
from support.mixtures import OWN, make_mixture
from support.models import make_tokenizer, model_logprobs, move

SEQUENCE = ([20, 31, 15, 60], [33, 12, 70, 41, 9])


def adapted(kind: str, **settings: Any) -> Policy:
    model = add_adapter(make_mixture(kind), LoraConfig.model_validate({"r": 4, "alpha": 12} | settings))
    move(model, 0.1, seed=1)
    return Policy(model, make_tokenizer(), torch.device("cpu"))


def assert_same_model(ours: Any, theirs: Any) -> None:
    ours, theirs = (model_logprobs(model, *SEQUENCE) for model in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5)


@pytest.mark.parametrize("kind", list(OWN))
def test_what_is_saved_is_what_was_trained(kind, tmp_path):
    """Merged in model/, and the adapter alone where peft reads it."""
    policy = adapted(kind)
    policy.save(tmp_path / "model")
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(report.values())
    assert float((model_logprobs(model, *SEQUENCE) - model_logprobs(make_mixture(kind), *SEQUENCE)).abs().max()) > 0.1
    assert_same_model(model.eval(), policy.model)
    assert_same_model(PeftModel.from_pretrained(make_mixture(kind), tmp_path / "adapter").eval(), policy.model)


@pytest.mark.parametrize(
    "settings", [{"targets": ["q_proj", "gate_proj"]}, {"dropout": 0.2}, {"rank_stabilised": True}]
)
def test_every_choice_of_layers(settings, tmp_path):
    """Without the other half of an expert, which peft would ask for; with dropout, which it refuses for parameters."""
    policy = adapted("deepseek_v3" if "targets" not in settings else "qwen3_moe", **settings)
    policy.save(tmp_path / "model")
    assert_same_model(AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval(), policy.model)
    base = make_mixture("deepseek_v3" if "targets" not in settings else "qwen3_moe")
    assert_same_model(PeftModel.from_pretrained(base, tmp_path / "adapter").eval(), policy.model)


def test_fused_experts_stay_and_that_is_said(caplog):
    policy = adapted("deepseek_v3")
    assert "lora.targets leaves 2 fused expert tensors untrained" in caplog.text
    trained = {name for name, parameter in policy.model.named_parameters() if parameter.requires_grad}
    assert not any(".experts." in name for name in trained)
    assert any(".shared_experts." in name for name in trained)
    assert fused_experts(make_mixture("jamba")) == 2  # not the convolution


@pytest.mark.parametrize("kind", ["phimoe", "llama4_text"])
def test_a_router_with_a_forward_of_its_own_is_no_target(kind):
    model = make_mixture(kind)
    assert not any("router" in name for name in target_names(model, "all-linear"))
    for targets in (("router",), r".*(router|q_proj)"):
        with pytest.raises(UserError, match=r"'model\.layers\.[01].*router' computes more than a linear layer"):
            target_names(model, targets)


def test_a_layer_whose_weight_is_used_without_calling_it_is_no_target(caplog):
    """Jamba's `dt_proj`: its adapter would do nothing in training, and change the model when it is merged."""
    policy = adapted("jamba")
    assert "lora.targets leaves out 1 layers" in caplog.text
    assert not any("dt_proj.lora" in name for name, _ in policy.model.named_parameters())
    with pytest.raises(UserError, match=r"uses the weight of 'model.layers.0.mamba.dt_proj' without calling"):
        adapted("jamba", targets=["dt_proj", "q_proj"])


def test_layers_that_peft_refuses_in_state_space_models():
    from transformers import AutoConfig

    config = AutoConfig.for_model("mamba", vocab_size=91, hidden_size=16, num_hidden_layers=1, state_size=4)
    model = AutoModelForCausalLM.from_config(config)
    assert not any("out_proj" in name for name in target_names(model, "all-linear"))
    with pytest.raises(UserError, match=r"'backbone\.layers\.0\.mixer\.out_proj' is used by kernels"):
        target_names(model, ("out_proj",))
