"""A folder with an adapter and no model is its base model with the adapter merged, or refused in one line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from grpo.config.algorithm import LoraConfig
from grpo.config.engine import EngineConfig, RuntimeConfig
from grpo.engines.choose import load_for_sampling, sampling_engine
from grpo.errors import UserError
from grpo.model.export import folder as export_folder
from grpo.model.loading.path import check_model
from grpo.model.loading.tokenizer import load_tokenizer
from grpo.model.loading.weights import examine, load_model, load_outline, look_at_values
from grpo.model.policy import load_policy
from matrix.trial import make_folder
from stages.check.subject import existing_model
from support.adapters import adapter_of, based_on
from support.models import make_model, make_tokenizer, move, save_model

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 6, 7, 30, 31]])
FILE = "adapter_model.safetensors"


@pytest.fixture
def pair(tmp_path):
    """(folder of an adapter beside its base model, logits of the two)."""
    import peft

    save_model(tmp_path / "base", "llama")
    settings = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    torch.manual_seed(1)
    adapted = peft.get_peft_model(make_model("llama"), settings).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    based_on(tmp_path / "adapter", "../base")
    return tmp_path / "adapter", adapted(IDS).logits


def rewritten(folder: Path, change) -> None:
    held = load_file(folder / FILE)
    save_file(change(held, min(held)), folder / FILE)


@pytest.mark.parametrize("base", ["../base", "base", "{}/base"])
def test_an_adapter_is_merged_into_its_base_model(base, pair, tmp_path, monkeypatch):
    """Its path is absolute, or relative to the adapter, or to where the command runs."""
    folder, logits = pair
    based_on(folder, base.format(tmp_path))
    monkeypatch.chdir(tmp_path if base == "base" else "/")
    name = str(folder)
    check_model(name)
    examine(name)
    look_at_values(name)
    loaded = load_model(name, CPU)
    assert (loaded(IDS).logits - logits).abs().max() < 1e-4
    assert (make_model("llama")(IDS).logits - logits).abs().max() > 0.1
    assert loaded.state_dict().keys() == make_model("llama").state_dict().keys()
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert load_model(name, CPU, torch.bfloat16).dtype == torch.bfloat16
    assert load_outline(name).config.model_type == existing_model(name).settings.model_type == "llama"


def test_it_trains_and_samples_as_what_was_meant(pair):
    folder, logits = pair
    policy = load_policy(str(folder), RuntimeConfig(device="cpu"))
    assert (policy.model(IDS).logits - logits).abs().max() < 1e-4
    policy.save(folder.parent / "model")
    assert not (folder.parent / "model" / "adapter_config.json").exists()
    assert (load_model(str(folder.parent / "model"), CPU)(IDS).logits - logits).abs().max() < 1e-4


def test_its_tokenizer_is_its_own_or_the_base_models(pair):
    folder, _ = pair
    assert load_tokenizer(str(folder)).get_vocab() == make_tokenizer().get_vocab()
    own = make_tokenizer()
    own.chat_template = "own"
    own.save_pretrained(folder)
    assert load_tokenizer(str(folder)).chat_template == "own"


def test_an_adapter_on_an_adapter(pair, tmp_path):
    folder, _ = pair
    import peft

    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    upper = peft.get_peft_model(load_model(str(folder), CPU), settings).eval()
    upper.save_pretrained(tmp_path / "upper")
    based_on(tmp_path / "upper", "../adapter")
    examine(str(tmp_path / "upper"))
    assert (load_model(str(tmp_path / "upper"), CPU)(IDS).logits - upper(IDS).logits).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("base", "text"),
    [
        ("nowhere/at/all", r"its base model 'nowhere/at/all' is not there"),
        ("./base", r"its base model './base' is not there"),
        (None, "is empty"),
        (".", "names itself"),
        ("an-org/a-model", "couldn't connect to 'https://huggingface.co'"),
    ],
)
def test_a_base_model_that_is_not_there(base, text, pair):
    folder, _ = pair
    based_on(folder, base)
    for look in (examine, lambda name: load_model(name, CPU), load_tokenizer):
        with pytest.raises(UserError, match=text):
            look(str(folder))


def test_adapters_in_a_circle(pair, tmp_path):
    folder, _ = pair
    shutil.copytree(folder, tmp_path / "other")
    based_on(tmp_path / "other", "../adapter")
    based_on(folder, "../other")
    for look in (examine, lambda name: load_model(name, CPU), load_tokenizer, load_outline):
        with pytest.raises(UserError, match="other': it names itself as its base model"):
            look(str(folder))


def nan(held, first):
    return held | {first: held[first] * torch.nan}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda held, first: {name: held[name] for name in held if name != first},
            "1 weights are missing from its file",
        ),
        (lambda held, first: held | {"x.lora_A.weight": held[first].clone()}, "1 weights find no place"),
        (
            lambda held, first: held | {first: held[first][:, :3].clone()},
            "does not fit its base model: .*size mismatch",
        ),
        (nan, "is not finite"),
    ],
)
def test_an_adapter_that_does_not_fit(change, text, pair):
    folder, _ = pair
    rewritten(folder, change)
    for look in (examine, lambda name: load_model(name, CPU)):
        with pytest.raises(UserError, match=text):
            look(str(folder))


def test_an_adapter_without_its_weights(pair):
    folder, _ = pair
    (folder / FILE).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=f"{FILE} is a Git LFS pointer"):
        examine(str(folder))
    os.unlink(folder / FILE)
    with pytest.raises(UserError, match=r"there are no weights beside its adapter_config.json"):
        load_model(str(folder), CPU)


def test_a_broken_base_model_is_named(pair):
    folder, _ = pair
    (folder.parent / "base" / "model.safetensors").write_text("")
    for look in (examine, lambda name: load_model(name, CPU)):
        with pytest.raises(UserError, match=r"base': model.safetensors is empty"):
            look(str(folder))


def test_vllm_reads_no_adapter(pair, monkeypatch):
    monkeypatch.setattr("grpo.engines.choose.require_vllm", lambda what: None)
    name, engine, runtime = str(pair[0]), EngineConfig(kind="vllm"), RuntimeConfig(device="cpu")
    text = "it is an adapter, and vLLM reads whole models only: take engine=local"
    with pytest.raises(UserError, match=text):
        load_for_sampling(name, engine, runtime)
    with pytest.raises(UserError, match=text):
        sampling_engine(engine, load_outline(name), load_tokenizer(name), runtime, name=name, longest=9)


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3"])
def test_an_adapter_that_a_run_left_on_a_mixture(name, tmp_path):
    """Beside the fused experts it stands as peft's `target_parameters`."""
    base = str(make_folder(name, tmp_path / "base"))
    policy = load_policy(base, RuntimeConfig(device="cpu"), LoraConfig(r=2, alpha=4, targets="all-linear"), seed=0)
    move(policy.model)
    policy.save(tmp_path / "run" / "model")
    logits = policy.model(input_ids=IDS).logits
    examine(str(tmp_path / "run" / "adapter"))
    for left in ("adapter", "model"):
        assert (load_model(str(tmp_path / "run" / left), CPU)(input_ids=IDS).logits - logits).abs().max() < 1e-4


@pytest.mark.parametrize("settings", [{"target_modules": ["embed_tokens", "q_proj"]}, {"target_modules": ["lm_head"]}])
def test_what_is_tied_and_adapted_apart_is_refused(settings, tmp_path):
    """Merged, both would be changed, or one of them would be lost when it is saved."""
    name = adapter_of("qwen2", tmp_path, **settings)
    for look in (examine, lambda name: load_model(name, CPU)):
        with pytest.raises(UserError, match=r"shares its weight with another"):
            look(name)


def test_layers_that_an_adapter_repeats_are_no_model(tmp_path):
    name = adapter_of("llama", tmp_path, layer_replication=[(0, 2), (0, 2)])
    with pytest.raises(UserError, match="layer_replication cannot be merged"):
        examine(name)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {"modules_to_save": ["lm_head", "embed_tokens"]}),
        ("llama", {"target_modules": ["lm_head", "embed_tokens"], "use_rslora": True}),
        ("qwen2", {"use_dora": True, "bias": "all"}),
        ("qwen2", {"trainable_token_indices": [3, 5]}),
        ("qwen2", {"modules_to_save": ["lm_head"]}),
        ("qwen2", {"modules_to_save": ["embed_tokens"]}),
        ("qwen2", {"modules_to_save": ["embed_tokens", "lm_head"]}),
        ("qwen2", {"rank_pattern": {"q_proj": 4}, "layers_to_transform": [1]}),
        ("llama", {"init_lora_weights": "pissa"}),
    ],
)
def test_other_kinds_of_adapters_are_what_peft_makes_of_them(kind, settings, tmp_path):
    import peft

    name = adapter_of(kind, tmp_path, **settings)
    examine(name)
    theirs = peft.PeftModel.from_pretrained(make_model(kind), name).eval()(input_ids=IDS).logits
    loaded = load_model(name, CPU)
    export_folder.save_model(loaded, make_tokenizer(), tmp_path / "saved")
    for model in (loaded, load_model(str(tmp_path / "saved"), CPU)):
        assert (model(input_ids=IDS).logits - theirs).abs().max() < 1e-4
    assert (make_model(kind)(input_ids=IDS).logits - theirs).abs().max() > 0.1


def test_what_peft_does_not_know_of_an_adapter_is_not_left_out(tmp_path):
    name = adapter_of("llama", tmp_path)
    file = tmp_path / "adapter" / "adapter_config.json"
    given = json.loads(file.read_text())
    file.write_text(json.dumps(given | {"new_option": None, "newer_option": {}}))
    examine(name)
    file.write_text(json.dumps(given | {"use_magic": True}))
    with pytest.raises(UserError, match=r"adapter_config.json sets use_magic, which this peft does not know"):
        examine(name)
    file.write_text(json.dumps(given | {"base_model_name_or_path": 5}))
    with pytest.raises(UserError, match="is empty"):
        load_tokenizer(name)


def test_an_adapter_that_is_no_part_of_the_weights(tmp_path):
    import peft

    base = str(save_model(tmp_path / "base", "llama"))
    settings = peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    peft.get_peft_model(make_model("llama"), settings).save_pretrained(tmp_path / "adapter")
    based_on(tmp_path / "adapter", base)
    with pytest.raises(UserError, match="PROMPT_TUNING cannot be merged into its base model"):
        examine(str(tmp_path / "adapter"))
