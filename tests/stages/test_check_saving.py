"""`grpo check` says before any compute what a stage would have trouble to write."""

import json

import pytest

from grpo.errors import UserError
from stages.check.saving import generation, weights
from stages.check.subject import Skipped, Warned
from support.broken import DOWN, without
from support.mixtures import make_mixture
from support.models import make_tokenizer, save_model


def test_settings_that_transformers_refuses_to_save(tmp_path):
    save_model(tmp_path, "llama")
    assert generation(str(tmp_path)) == ""
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps({"do_sample": False, "temperature": 0.9, "top_p": 0.6, "eos_token_id": 2}))
    with pytest.raises(Warned, match="would refuse to save it: do_sample is set to true"):
        generation(str(tmp_path))
    file.write_text(json.dumps({"pad_token_id": -1}))
    with pytest.raises(Warned, match="would refuse to save it: pad_token_id left out"):
        generation(str(tmp_path))
    file.write_text(json.dumps({"num_return_sequences": 3}))
    with pytest.raises(UserError, match=r"generation_config.json cannot be read: Greedy methods"):
        generation(str(tmp_path))
    file.unlink()
    assert generation(str(tmp_path)) == ""


def test_weights_that_would_not_load_again(tmp_path, monkeypatch):
    make_mixture("qwen3_moe").save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert weights(str(tmp_path)).startswith("load again")
    monkeypatch.setattr("grpo.model.export.verify.kept_names", lambda model: list(model.state_dict())[1:])
    with pytest.raises(UserError, match="would not load again"):
        weights(str(tmp_path))


def test_weights_that_are_not_whole_are_not_said_to_load_again(tmp_path):
    without(DOWN)(save_model(tmp_path, "llama"))
    with pytest.raises(Skipped, match="cannot be loaded"):
        weights(str(tmp_path))
