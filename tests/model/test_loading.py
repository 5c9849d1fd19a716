"""A model as people bring it is loaded whole, or refused in one line that names what is wrong."""

from __future__ import annotations

import random
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from grpo.errors import UserError
from grpo.model.fit import check_causal
from grpo.model.loading.classifier import examine_classifier, load_classifier
from grpo.model.loading.weights import examine, load_model, look_at_values
from matrix.trial import make_folder
from support import broken
from support.broken import BROKEN, broken_model
from support.models import VOCAB_SIZE, save_model

CPU = torch.device("cpu")


def look(folder: str) -> None:
    examine(folder)
    look_at_values(folder)


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_refused_by_name(case, tmp_path):
    folder = broken_model(case, tmp_path / "model")
    with pytest.raises(UserError) as loaded:
        load_model(folder, CPU)
    with pytest.raises(UserError) as checked:
        look(folder)
    for error in (loaded, checked):
        text = str(error.value)
        assert re.search(BROKEN[case][2], text), text
        assert text.startswith(f"model '{folder}': ")
        assert len(text) < 700
        assert "\n" not in text
    assert str(loaded.value) == str(checked.value)


def rewritten_index(text: str) -> broken.Break:
    return lambda folder: (broken.sharded(folder), broken.written("model.safetensors.index.json", text)(folder))[1]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (rewritten_index("[]"), "the index of its weights cannot be read"),
        (rewritten_index('{"weight_map": {"a": 3}, "metadata": {}}'), "the index of its weights cannot be read"),
        (broken.pickled(lambda held: dict(enumerate(held.values()))), "holds other things than weights by name"),
        (broken.settings(quantization_config={}), "its weights are quantised"),
    ],
)
def test_oddities_are_refused_alike(change, text, tmp_path):
    change(save_model(tmp_path, "llama"))
    for look_at in (look, partial(load_model, device=CPU)):
        with pytest.raises(UserError, match=text):
            look_at(str(tmp_path))


@pytest.mark.parametrize("kind", ["qwen2", "gpt2", "llama", "gemma3", "gpt-oss", "cohere"])
@pytest.mark.parametrize("form", ["whole", "sharded", "pickled"])
def test_what_is_whole_is_loaded(kind, form, tmp_path):
    folder = save_model(tmp_path, kind)
    plain = load_model(str(folder), CPU).state_dict()
    if form != "whole":
        {"sharded": broken.sharded, "pickled": broken.pickled()}[form](folder)
    again = load_model(str(folder), CPU).state_dict()
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert not examine(str(folder)).missing
    look_at_values(str(folder))


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_one_number_of_a_million_is_seen(value, tmp_path):
    folder = save_model(tmp_path, "llama", vocab_size=40_000)

    def spoil(weight: torch.Tensor) -> torch.Tensor:
        weight[-2, 5] = value
        return weight

    broken.replaced("model.embed_tokens.weight", spoil)(folder)
    with pytest.raises(UserError, match=r"model.embed_tokens.weight is not finite"):
        look_at_values(str(folder))


def test_logits_that_are_no_numbers_are_called_so(tmp_path):
    folder = save_model(tmp_path, "llama")
    broken.settings(rms_norm_eps=-1.0)(folder)
    with pytest.raises(UserError, match="LlamaForCausalLM gives logits that are not finite"):
        check_causal(load_model(str(folder), CPU))


def test_tuples_that_an_old_config_asks_for_are_not_given(tmp_path):
    folder = save_model(tmp_path, "llama")
    broken.settings(return_dict=False)(folder)
    assert load_model(str(folder), CPU)(torch.tensor([[5, 6]])).logits.shape[1] == 2


def test_the_same_weights_named_twice_are_one_model(tmp_path):
    folder = save_model(tmp_path, "llama")
    names = load_model(str(folder), CPU).state_dict()
    index = dict.fromkeys(names, "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(broken.json.dumps({"weight_map": index}))
    load_model(str(folder), CPU)
    (folder / "model.safetensors.index.json").unlink()
    broken.twice(folder, change=0.0)
    load_model(str(folder), CPU)


def test_a_tied_head_that_is_written_twice_is_taken(tmp_path):
    folder = save_model(tmp_path)
    broken.tensors(lambda held: held | {"lm_head.weight": held["model.embed_tokens.weight"].clone()})(Path(folder))
    assert load_model(str(folder), CPU).config.tie_word_embeddings


def test_masks_of_old_checkpoints_are_no_weights(tmp_path):
    folder = save_model(tmp_path, "gpt2")
    broken.tensors(lambda held: held | {"transformer.h.0.attn.bias": torch.ones(1, 1, 9, 9)})(folder)
    assert examine(str(folder)).spare == {"transformer.h.0.attn.bias"}
    load_model(str(folder), CPU)


def test_heads_for_further_tokens_are_left_out_with_a_word(tmp_path, caplog):
    folder = make_folder("qwen3_next", tmp_path)
    load_model(str(folder), CPU)
    assert not caplog.text
    broken.tensors(lambda held: held | {"mtp.fc.weight": torch.ones(2, 2)})(folder)
    load_model(str(folder), CPU)
    assert "1 weights of heads for further tokens are left out, neither trained nor saved: mtp.fc.weight" in caplog.text


def test_a_vision_tower_is_not_lost_without_a_word(tmp_path):
    """A Qwen3.5 checkpoint is of text and vision, and transformers declares that its text model leaves out the latter.
    Saved as text alone it is whole."""
    import transformers as hf

    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    linear = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8}
    text = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, **heads}
    kinds = {"layer_types": ["linear_attention", "full_attention"], "linear_value_head_dim": 8, **linear}
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32}
    whole = hf.Qwen3_5ForConditionalGeneration(hf.Qwen3_5Config(text_config=text | kinds, vision_config=vision))
    whole.save_pretrained(tmp_path / "whole")
    for look_at in (examine, partial(load_model, device=CPU)):
        with pytest.raises(UserError, match=r"visual\.\* \(21 weights\) would be lost, .* text alone"):
            look_at(str(tmp_path / "whole"))
    hf.AutoModelForCausalLM.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "text")
    alone = load_model(str(tmp_path / "text"), CPU)
    assert torch.equal(alone.model.embed_tokens.weight, whole.model.language_model.embed_tokens.weight)


def classifier(folder: Path, kind: str = "qwen2", labels: int = 1) -> str:
    """The folder of a random sequence classifier on a tiny model."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    save_model(folder, kind)
    config = AutoConfig.from_pretrained(folder, num_labels=labels)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return str(folder)


def test_a_reward_model_is_loaded_as_it_was_saved(tmp_path):
    folder = classifier(tmp_path)
    examine_classifier(folder, new_head=False)
    one, other = (load_classifier(folder, new_head=False) for _ in range(2))
    assert torch.equal(one.score.weight, other.score.weight)


@pytest.mark.parametrize(
    ("labels", "text"),
    [(0, r"no reward model, score.weight is missing .* random"), (2, "head has 2 outputs"), (3, "head has 3 outputs")],
)
def test_what_is_no_reward_model_is_refused(labels, text, tmp_path):
    """A causal LM would be a judge with a random head, another one at each start."""
    folder = classifier(tmp_path, labels=labels) if labels else str(save_model(tmp_path))
    for look_at in (examine_classifier, load_classifier):
        with pytest.raises(UserError, match=f"^reward model '{folder}': .*{text}"):
            look_at(folder, new_head=False)


def test_a_causal_model_gets_a_head_to_be_trained(tmp_path):
    for kind in ("qwen2", "llama"):
        folder = str(save_model(tmp_path / kind, kind))
        examine_classifier(folder, new_head=True)
        assert load_classifier(folder, new_head=True).score.out_features == 1
    without_norm = broken_model("no norm", tmp_path / "broken")
    with pytest.raises(UserError, match=r"input_layernorm.weight.* is missing"):
        load_classifier(without_norm, new_head=True)


def test_a_reward_model_that_lacks_more_than_its_head_is_refused(tmp_path):
    folder = classifier(tmp_path, "llama")
    broken.without(broken.NORM)(tmp_path)
    with pytest.raises(UserError, match=r"input_layernorm.weight.* is missing"):
        load_classifier(folder, new_head=False)


def test_looking_draws_no_random_numbers(tmp_path):
    """Seeds are set before a model is loaded."""
    folder = str(save_model(tmp_path))
    state = torch.get_rng_state()
    examine(folder)
    examine_classifier(folder, new_head=True)
    load_model(folder, CPU)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_of_every_architecture_each_weight_is_missed(name, tmp_path):
    """Whole it is loaded, whatever its files call its weights; without one of them it is refused. (All of them, 12,396
    of 154 architectures, were taken away once.)"""
    try:
        make_folder(name, tmp_path)
        examine(str(tmp_path))
    except Exception as error:  # noqa: BLE001 - nothing that can be made, or no causal language model
        pytest.skip(str(error))
    load_model(str(tmp_path), CPU)
    held = load_file(tmp_path / broken.WEIGHTS)
    for gone in random.Random(0).sample(sorted(held), min(8, len(held))):
        save_file({name: held[name] for name in held if name != gone}, tmp_path / broken.WEIGHTS, {"format": "pt"})
        with pytest.raises(UserError, match=r"missing|another shape"):
            examine(str(tmp_path))
