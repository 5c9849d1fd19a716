"""What a mixture of experts adds to the loss for its router: nothing unless it is asked for, and then what it says."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GraniteMoeHybridConfig, MixtralConfig

from grpo.config.training import OptimizerConfig, SFTConfig
from grpo.data.conversations import IGNORE, Example
from grpo.data.rows import read_jsonl
from grpo.errors import UserError
from grpo.supervised import Training
from grpo.supervised.sft import train_on_tokens
from support.models import PAD, VOCAB_SIZE, make_model, make_tokenizer
from support.runs import CPU, assert_equal

SIZES = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": PAD,
    "num_key_value_heads": 2, "intermediate_size": 48, "initializer_range": 0.2,
}  # fmt: skip
EXAMPLES = [Example(list(range(10 + n, 26 + n)), [IGNORE] * 8 + list(range(18 + n, 26 + n))) for n in range(12)]


def mixture(coefficient: float, asked: bool = True):
    torch.manual_seed(0)
    config = MixtralConfig(**SIZES, num_local_experts=4, router_aux_loss_coef=coefficient, output_router_logits=asked)
    return AutoModelForCausalLM.from_config(config).eval()


def trained(model, out: Path, **settings):
    """Its weights after three steps of two micro-batches."""
    config = SFTConfig(
        steps=3, batch_size=4, micro_batch_size=2, max_tokens=64, optimizer=OptimizerConfig(lr=1e-2), **settings
    )
    train_on_tokens(model, make_tokenizer(), EXAMPLES, Training(config, out, 3, CPU, "supervised"))
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def first_loss(out: Path) -> float:
    return read_jsonl(out / "metrics.jsonl")[0]["loss"]


@pytest.mark.parametrize("asked", [False, True])
def test_only_tokens_are_trained_on_whatever_the_config_says(asked, tmp_path):
    model = mixture(10.0, asked)
    assert_equal(trained(model, tmp_path / "a"), trained(mixture(0.0, asked=False), tmp_path / "b"))
    assert model.config.router_aux_loss_coef == 10.0  # it is saved with the model
    assert model.config.output_router_logits is asked


def test_the_coefficient_is_that_of_the_setting(tmp_path):
    """Of the mean over micro-batches, in the first loss; and the weights feel it."""
    plain = trained(mixture(10.0), tmp_path / "plain")
    model = mixture(10.0)
    found = trained(model, tmp_path / "found", router_loss=0.5)
    assert any(not torch.equal(found[name], plain[name]) for name in plain)
    spread = first_loss(tmp_path / "found") - first_loss(tmp_path / "plain")
    double = mixture(10.0)
    trained(double, tmp_path / "double", router_loss=1.0)
    assert first_loss(tmp_path / "double") - first_loss(tmp_path / "plain") == pytest.approx(2 * spread, rel=1e-3)
    assert spread > 0.5  # the loss of a router is 2 (experts per token) where its experts are used alike
    assert model.config.router_aux_loss_coef == 10.0


def test_a_granite_without_experts_is_trained(tmp_path):
    """Granite 4 dense: an IndexError of the router's loss, as its config asks for it."""
    config = GraniteMoeHybridConfig(
        **SIZES, layer_types=["attention"] * 2, num_local_experts=0, shared_intermediate_size=48, mamba_n_heads=4,
        output_router_logits=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after = trained(model, tmp_path / "a")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(UserError, match="'router_loss' has no effect: GraniteMoeHybridForCausalLM has no experts"):
        trained(model, tmp_path / "b", router_loss=0.1)


def test_a_dense_model_has_no_such_loss(tmp_path):
    with pytest.raises(UserError, match="'router_loss' has no effect: Qwen2ForCausalLM has no experts"):
        trained(make_model(), tmp_path / "a", router_loss=0.1)


def test_settings_of_before_are_the_same_settings():
    """The stage's slice of the config has no new key where it is off."""
    from grpo.config.file import validate
    from stages.recipe.config import RecipeConfig
    from stages.recipe.lineage import stage_settings

    recipe = {"base": {"model": "m"}, "cold_start": {"data": {"path": "d.jsonl"}, "steps": 3}}
    plain = stage_settings(validate(RecipeConfig, recipe, "config"), "cold_start")
    assert "router_loss" not in json.dumps(plain)
    recipe["cold_start"]["router_loss"] = 0.1
    assert stage_settings(validate(RecipeConfig, recipe, "config"), "cold_start") == {
        **plain, "cold_start.router_loss": 0.1
    }  # fmt: skip
