"""The tiny model of the trainings with vLLM."""

from __future__ import annotations

import pytest

from support.models import make_model, make_tokenizer


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("models") / "tiny"
    make_model(
        "qwen2", hidden_size=64, num_attention_heads=2, num_key_value_heads=1, initializer_range=0.08
    ).save_pretrained(made)  # tied embeddings
    make_tokenizer().save_pretrained(made)
    return made
