"""Sequences and tokens that a model cannot compute are refused before anything is."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import AutoModelForCausalLM

from grpo.errors import UserError
from grpo.model.loading.limits import check_fit, check_special, fit, room
from grpo.model.loading.weights import load_model
from matrix.architectures import config_of as architecture
from support import broken
from support.models import EOS, VOCAB_SIZE, make_model, make_tokenizer, save_model

CPU = torch.device("cpu")
LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 4.0, "rope_theta": 1e4,
    "original_max_position_embeddings": 32,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}


def rows(length: int) -> list[list[int]]:
    return [[7] * 3, [7] * length]


def test_learnt_positions_end():
    import transformers as hf

    opt = hf.OPTConfig(
        vocab_size=VOCAB_SIZE, hidden_size=32, ffn_dim=48, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=512, word_embed_proj_dim=32,
    )  # fmt: skip
    gptj = hf.GPTJConfig(vocab_size=VOCAB_SIZE, n_positions=512, n_embd=32, n_layer=1, n_head=4, rotary_dim=4)
    for model in (make_model("gpt2"), *map(hf.AutoModelForCausalLM.from_config, (opt, gptj))):
        assert fit(model, rows(412), "max_tokens", 100) == (512, None)
        model(input_ids=torch.tensor([[7] * 512]))
        text = (
            "max_tokens=101 after a prompt of 412 tokens is more than the model's 512 positions, and it has no others"
        )
        with pytest.raises(UserError, match=f"{text}; set it to at most 100"):
            fit(model, rows(412), "max_tokens", 101)
        with pytest.raises(UserError, match=r"SFT: a row of 513 tokens .*; set max_tokens to at most 512"):
            fit(model, rows(513), "SFT: a row")
        with pytest.raises(UserError, match="shorten the prompts"):
            fit(model, rows(513), "max_tokens", 1)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_nothing_is_trained_or_sampled_beyond_the_positions(kind):
    model = make_model(kind)
    assert fit(model, rows(412), "max_tokens", 100) == (512, None)
    assert [room(model, rows(length), 200) for length in (100, 412, 512, 600)] == [200, 100, 1, 1]
    for length, tokens, remedy in ((412, 101, "set it to at most 100"), (513, 1, "shorten the prompts")):
        with pytest.raises(UserError, match=rf"more than the model's 512 positions.*; {remedy}"):
            fit(model, rows(length), "max_tokens", tokens)
    with pytest.raises(UserError, match=r"SFT: a row of 513 tokens .*; set max_tokens to at most 512"):
        check_fit(model, rows(513), "SFT: a row")


def test_stretched_positions_are_no_limit(caplog):
    """Some configs give the positions before the stretching, others those after it."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 512}
    model = make_model("llama", rope_parameters=yarn)
    with caplog.at_level(logging.WARNING, "grpo"):
        assert check_fit(model, rows(600), "max_tokens", 100) == 700
    assert "max_tokens=100 after a prompt of 600 tokens is more than the model's 512 positions: what" in caplog.text
    assert room(model, rows(600), 100) == 100


def test_what_has_no_positions_has_no_limit_of_them():
    """Nemotron-H's attention knows none; its config says how long its texts were."""
    import transformers as hf

    config = hf.NemotronHConfig(
        vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=1, hybrid_override_pattern="*", num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, intermediate_size=48, max_position_embeddings=64,
    )  # fmt: skip
    with torch.device("meta"):
        model = hf.AutoModelForCausalLM.from_config(config)
    assert fit(model, rows(60), "max_tokens", 9)[0] == 69


@pytest.mark.parametrize(("kind", "rope", "switch"), [("phi3", LONGROPE, 32), ("llama", DYNAMIC, 512)])
def test_rotary_positions_that_change_are_not_crossed(kind, rope, switch):
    """Beyond, the keys of all tokens are others: those of an engine's cache and of shorter rows no longer fit."""
    own = {"original_max_position_embeddings": switch} if kind == "phi3" else {}
    model = make_model(kind, rope_parameters=rope, max_position_embeddings=512, **own)
    assert fit(model, rows(switch - 9), "max_tokens", 9) == (switch, None)
    ids = torch.arange(switch + 40)[None] * 7 % VOCAB_SIZE
    with torch.no_grad():
        before = model(input_ids=ids[:, :switch]).logits[0, :20]
        after = model(input_ids=ids).logits[0, :20]
    assert (before - after).abs().max() > 1e-3  # of the same tokens
    for tokens in (10, 600):
        text = (
            rf"more than the {switch} tokens up to which its rotary positions \({rope['rope_type']}\) are one; set it"
        )
        with pytest.raises(UserError, match=text):
            fit(model, rows(switch - 9), "max_tokens", tokens)


def test_tokens_without_an_embedding():
    model = make_model()
    assert fit(model, [[VOCAB_SIZE - 1]], "x", 1)[0] == 2
    with pytest.raises(
        UserError, match=f"token {VOCAB_SIZE} has no embedding, the model has {VOCAB_SIZE}: call model.res"
    ):
        fit(model, [[3], [VOCAB_SIZE, 4]], "x", 1)


def test_ends_and_padding_without_an_embedding():
    tokenizer = make_tokenizer()
    check_special(tokenizer, VOCAB_SIZE, [EOS])
    check_special(tokenizer, VOCAB_SIZE, None)
    for configured in ([EOS, VOCAB_SIZE], VOCAB_SIZE):
        with pytest.raises(UserError, match=f"eos_token_id is {VOCAB_SIZE}, and the model has {VOCAB_SIZE} embeddings"):
            check_special(tokenizer, VOCAB_SIZE, configured)
    for name in ("pad_token", "bos_token"):
        tokenizer = make_tokenizer()
        tokenizer.add_special_tokens({name: "<new>"})
        with pytest.raises(UserError, match=rf"the tokenizer's {name} is {VOCAB_SIZE}"):
            check_special(tokenizer, VOCAB_SIZE, [EOS])


def test_a_padding_of_the_config_without_an_embedding(tmp_path):
    folder = save_model(tmp_path)
    broken.settings(pad_token_id=500)(folder)
    with pytest.raises(UserError, match=r"pad_token_id is 500 in config.json, beyond its vocab_size"):
        load_model(str(folder), CPU)


def test_sparse_attention_beyond_what_it_selects_is_a_doubt():
    model = AutoModelForCausalLM.from_config(architecture("deepseek_v32"))  # 64 are selected
    assert fit(model, [[5] * 40], "max_tokens", 24) == (64, None)
    assert "more than the 64 that its sparse attention selects" in str(fit(model, [[5] * 40], "max_tokens", 25)[1])
    assert fit(model, [[5] * 100], "a row") == (100, None)  # one forward of the whole row is the model's own
