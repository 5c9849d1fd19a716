"""What is written of a model: weights under the names and in the precision they came in, and all that came along."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)

from grpo.config.engine import RuntimeConfig
from grpo.errors import UserError
from grpo.model.export import weights as export_weights
from grpo.model.export.folder import save_model
from grpo.model.export.names import as_in_checkpoint, kept_names
from grpo.model.export.verify import check_can_be_saved, check_saved
from grpo.model.loading.path import UNFINISHED, check_model
from grpo.model.loading.tokenizer import load_tokenizer
from grpo.model.loading.weights import load_model
from grpo.model.policy import Policy, load_policy
from support.broken import sharded
from support.mixtures import OWN, make_mixture
from support.models import make_model, make_tokenizer, model_logprobs, move
from support.models import save_model as save_tiny
from support.runs import CPU, assert_equal, assert_same_run, config_of, run

KINDS = ["qwen2", "llama", "gemma2", "gpt2", "phi3"]


def loaded(folder: Path) -> tuple[Any, Any]:
    return load_model(str(folder), torch.device("cpu")), load_tokenizer(str(folder))


def written(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


def rewrite(folder: Path, name: str, **values: Any) -> None:
    """Values of one of its JSON files; None: away with the key."""
    file = folder / name
    content = (json.loads(file.read_text()) if file.is_file() else {}) | values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def in_dtype(folder: Path, dtype: torch.dtype, but: str = "-") -> dict[str, torch.Tensor]:
    """The folder's weights in this precision, except those of which the name holds `but`."""
    tensors = {n: t if but in n else t.to(dtype) for n, t in written(folder).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    rewrite(folder, "config.json", dtype=str(dtype).removeprefix("torch."))
    return tensors


# ---- names


@pytest.mark.parametrize("kind", list(OWN))
def test_names_are_those_of_the_checkpoint(kind, tmp_path):
    """As transformers itself saves them, in an export for an engine too; and they load again."""
    model = make_mixture(kind)
    model.save_pretrained(tmp_path / "theirs")
    policy = Policy(model, make_tokenizer(), torch.device("cpu"))
    policy.save(tmp_path / "ours")
    assert_equal(written(tmp_path / "ours"), written(tmp_path / "theirs"))
    exported = dict(policy.export())
    assert_equal({name: exported[name] for name in written(tmp_path / "theirs")}, written(tmp_path / "theirs"))
    again = load_model(str(tmp_path / "ours"), torch.device("cpu"))  # names come from what was read now
    assert_equal(dict(Policy(again, make_tokenizer(), torch.device("cpu")).export()), exported)
    assert_equal(again.state_dict(), model.state_dict())


def test_one_group_of_experts_is_held_at_a_time():
    model = make_mixture("qwen3_moe", num_hidden_layers=3)
    held = []

    def tensors():
        for name, tensor in model.state_dict().items():
            held.append(name)
            yield name, tensor

    for name, _ in as_in_checkpoint(model, kept_names(model), tensors()):
        assert name.split(".")[:3] == held[-1].split(".")[:3]  # of the layer that was just asked for


def test_what_would_not_load_again_is_refused_before_and_after(tmp_path, monkeypatch):
    model = make_mixture("qwen3_moe")
    check_can_be_saved(model)
    names = kept_names(model)
    monkeypatch.setattr("grpo.model.export.verify.kept_names", lambda _: names[1:])
    with pytest.raises(UserError, match=r"as it is saved, Qwen3MoeForCausalLM would not load again: .*embed_tokens"):
        check_can_be_saved(model)
    monkeypatch.undo()
    save_model(model, make_tokenizer(), tmp_path / "model")
    check_saved(model, tmp_path / "model")
    tensors = written(tmp_path / "model")
    expert = tensors.pop("model.layers.1.mlp.experts.2.up_proj.weight")
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="would not load again"):
        check_saved(model, tmp_path / "model")
    renamed = tensors | {"model.layers.1.mlp.experts.base_layer.up_proj": expert}
    save_file(renamed, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="would not load again"):
        check_saved(model, tmp_path / "model")


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_are_written_once(tied, tmp_path):
    model = make_model("llama", tie_word_embeddings=tied)
    save_model(model, make_tokenizer(), tmp_path / "model")
    assert ("lm_head.weight" in written(tmp_path / "model")) != tied
    assert_equal(loaded(tmp_path / "model")[0].state_dict(), model.state_dict())


@pytest.mark.parametrize("kind", ["qwen2", "qwen3_moe"])
def test_large_models_are_written_in_parts(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(export_weights, "LIMIT", 20_000)
    model = make_mixture(kind) if kind in OWN else make_model(kind)
    save_model(model, make_tokenizer(), tmp_path / "model")
    files = sorted(file.name for file in (tmp_path / "model").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in written(tmp_path / "model").values())
    assert_equal(loaded(tmp_path / "model")[0].state_dict(), model.state_dict())


# ---- precision


@pytest.mark.parametrize("kind", [*KINDS, "qwen3_moe"])
def test_a_half_precision_model_stays_one(kind, tmp_path):
    """Bit for bit where nothing was trained, and training is in fp32."""
    model = make_mixture(kind) if kind in OWN else make_model(kind)
    save_model(model, make_tokenizer(), tmp_path / "came")
    given = in_dtype(tmp_path / "came", torch.bfloat16)
    policy = load_policy(str(tmp_path / "came"), CPU)
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
    policy.save(tmp_path / "went")
    assert_equal(written(tmp_path / "went"), given)
    assert json.loads((tmp_path / "went" / "config.json").read_text())["dtype"] == "bfloat16"
    move(policy.model)
    policy.save(tmp_path / "trained")
    trained = written(tmp_path / "trained")
    rounded = {name: tensor.bfloat16() for name, tensor in policy.export() if name in trained}
    assert_equal(trained, rounded)  # to the nearest


def test_each_weight_keeps_its_own_precision(tmp_path):
    save_tiny(tmp_path / "came", "llama")
    given = in_dtype(tmp_path / "came", torch.bfloat16, but="norm")
    save_model(*loaded(tmp_path / "came"), tmp_path / "went")
    assert {tensor.dtype for tensor in given.values()} == {torch.bfloat16, torch.float32}
    assert_equal(written(tmp_path / "went"), given)


@pytest.mark.parametrize("choice", ["float32", "bfloat16", "float16"])
def test_the_precision_can_be_chosen(choice, tmp_path):
    save_tiny(tmp_path / "came", "llama")
    in_dtype(tmp_path / "came", torch.bfloat16)
    policy = load_policy(str(tmp_path / "came"), RuntimeConfig(device="cpu", save_dtype=choice))
    policy.save(tmp_path / "went")
    assert {tensor.dtype for tensor in written(tmp_path / "went").values()} == {getattr(torch, choice)}
    assert json.loads((tmp_path / "went" / "config.json").read_text())["dtype"] == choice
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "went", dtype="auto").dtype == getattr(torch, choice)


def test_values_beyond_float16_are_not_made_infinite(tmp_path, caplog):
    model = make_model("llama")
    with torch.no_grad():
        model.model.norm.weight[0] = 1e6
    save_model(model, make_tokenizer(), tmp_path / "model", dtype="float16")
    assert written(tmp_path / "model")["model.norm.weight"].dtype == torch.float32
    assert "'model.norm.weight' has values beyond float16" in caplog.text


def test_weights_of_another_format_have_their_precision_too(tmp_path):
    save_tiny(tmp_path / "came", "llama")
    given = in_dtype(tmp_path / "came", torch.float16)
    (tmp_path / "came" / "model.safetensors").unlink()
    torch.save(given, tmp_path / "came" / "pytorch_model.bin")
    save_model(*loaded(tmp_path / "came"), tmp_path / "went")
    assert_equal(written(tmp_path / "went"), given)
    assert not (tmp_path / "went" / "pytorch_model.bin").exists()


# ---- settings that transformers refuses to save


GREEDY = {"do_sample": False, "temperature": 0.9, "top_p": 0.6, "eos_token_id": [2, 3]}


@pytest.mark.parametrize(
    ("given", "said", "kept"),
    [
        (GREEDY, "do_sample is set to true", {"do_sample": True, "temperature": 0.9, "top_p": 0.6}),
        ({"temperature": 0.7, "eos_token_id": [2, 3]}, "do_sample is set to true", {"temperature": 0.7}),
        ({"early_stopping": True, "repetition_penalty": 1.1, "eos_token_id": [2, 3]}, "early_stopping left out", {}),
        (
            {"temperature": 0.0, "do_sample": False, "eos_token_id": [2, 3]},
            "temperature left out",
            {"do_sample": False},
        ),
        ({"pad_token_id": -1, "eos_token_id": [2, 3]}, "pad_token_id left out", {"pad_token_id": None}),
        ({"output_scores": True, "temperature": 0.5, "eos_token_id": [2, 3]}, "left out", {}),
    ],
)
def test_settings_that_could_not_be_saved_are_mended_when_they_are_read(given, said, kept, tmp_path, caplog):
    save_tiny(tmp_path / "came", "llama")
    (tmp_path / "came" / "generation_config.json").write_text(json.dumps(given))
    model, tokenizer = loaded(tmp_path / "came")
    assert said in caplog.text
    save_model(model, tokenizer, tmp_path / "went")
    again = GenerationConfig.from_pretrained(tmp_path / "went")
    again.validate(strict=True)
    assert again.eos_token_id == [2, 3]
    assert {name: getattr(again, name) for name in kept} == kept
    caplog.clear()
    loaded(tmp_path / "went")
    assert "could not be saved" not in caplog.text  # once


@pytest.mark.parametrize("beside", [True, False])
def test_stray_settings_in_an_old_config(beside, tmp_path):
    save_tiny(tmp_path / "came", "llama")
    rewrite(tmp_path / "came", "config.json", temperature=0.7, top_p=0.9, num_beams=2, max_length=99, mine=[1, 2])
    if not beside:
        (tmp_path / "came" / "generation_config.json").unlink()
    save_model(*loaded(tmp_path / "came"), tmp_path / "went")
    loaded(tmp_path / "went")[0].save_pretrained(tmp_path / "theirs")
    assert json.loads((tmp_path / "went" / "config.json").read_text())["mine"] == [1, 2]


def refuse(*_: Any, **__: Any) -> None:
    raise ValueError("no, not this one")


@pytest.mark.parametrize("part", ["config", "generation_config", "tokenizer"])
def test_what_a_library_refuses_to_write_is_taken_from_what_came(part, tmp_path, monkeypatch, caplog):
    save_tiny(tmp_path / "came", "llama")
    model, tokenizer = loaded(tmp_path / "came")
    kind = type(tokenizer if part == "tokenizer" else getattr(model, part))
    for method in ("save_pretrained", "to_json_file"):
        monkeypatch.setattr(kind, method, refuse, raising=False)
    save_model(model, tokenizer, tmp_path / "went")
    monkeypatch.undo()
    assert "is as it came, its library does not write it: ValueError: no, not this one" in caplog.text
    again, texts = loaded(tmp_path / "went")
    assert_equal(again.state_dict(), model.state_dict())
    assert texts("12+3").input_ids == make_tokenizer()("12+3").input_ids
    assert again.generation_config.eos_token_id == model.generation_config.eos_token_id


def test_weights_stay_when_nothing_can_take_the_place_of_a_file(tmp_path, monkeypatch):
    """A model that came from nowhere; the next try replaces them."""
    model, tokenizer = make_model("llama"), make_tokenizer()
    monkeypatch.setattr(tokenizer, "save_pretrained", refuse)
    with pytest.raises(UserError, match=r"cannot write '.*model': ValueError: no, not this one; the weights are there"):
        save_model(model, tokenizer, tmp_path / "model")
    assert_equal(written(tmp_path / "model"), dict(model.state_dict()))
    assert (tmp_path / "model" / UNFINISHED).is_file()
    with pytest.raises(UserError, match=r"not finished \(UNFINISHED in it\)"):
        check_model(str(tmp_path / "model"))
    monkeypatch.undo()
    save_model(model, tokenizer, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model" / UNFINISHED).exists()
    check_model(str(tmp_path / "model"))


# ---- what came along


ALONG = {
    "tokenizer.model": "pieces",
    "LICENSE": "do as you like",
    "LICENSE-MODEL.txt": "or not",
    "NOTICE": "it was us",
    "USE_POLICY.md": "be good",
    "preprocessor_config.json": "{}",
    "processor_config.json": "{}",
    "vocab.json": "{}",
    "merges.txt": "#version: 0.2",
    "added_tokens.json": "{}",
    "special_tokens_map.json": "{}",
    "tekken.json": "{}",
}
STALE = {
    "README.md": "a card of another model",
    "modeling_mine.py": "print('run')",
    "pytorch_model.bin": "pickle",
    "scaler.pkl": "pickle",
    "model.fp32.gguf": "weights",
    "pytorch_model.bin.index.json": "{}",
    "trainer_state.json": "{}",
    "training_args.bin": "pickle",
    "quantize_config.json": "{}",
    "params.json": "{}",
    ".gitattributes": "",
}


@pytest.fixture
def came(tmp_path):
    folder = save_tiny(tmp_path / "came", "llama")
    for name, text in (ALONG | STALE).items():
        (folder / name).write_text(text)
    return folder


def assert_along(folder: Path) -> None:
    for name, text in ALONG.items():
        assert (folder / name).read_text() == text, name
    assert not [name for name in STALE if (folder / name).exists()]
    assert not [path for path in folder.iterdir() if path.is_symlink()]


def test_files_go_along_that_are_still_true(came, tmp_path):
    save_model(*loaded(came), tmp_path / "went")
    assert_along(tmp_path / "went")


def test_only_what_is_lost_is_said_to_be_left(came, tmp_path, caplog):
    sharded(came)
    model, tokenizer = loaded(came)
    with caplog.at_level("INFO", "grpo"):
        save_model(model, tokenizer, tmp_path / "went")
    (said,) = [message for message in caplog.messages if "not taken along" in message]
    assert "trainer_state.json" in said
    assert "of-00002" not in said
    assert "model.safetensors.index.json" not in said
    caplog.clear()
    (came / "generation_config.json").write_text("{}")
    AutoModelForSequenceClassification.from_pretrained(came, num_labels=1).save_pretrained(tmp_path / "judge")
    judge = AutoModelForSequenceClassification.from_pretrained(tmp_path / "judge")
    shutil.copy(came / "generation_config.json", tmp_path / "judge")
    with caplog.at_level("INFO", "grpo"):
        save_model(judge, tokenizer, tmp_path / "reward")
    assert "not taken along" not in caplog.text


def test_weights_that_were_taken_away_meanwhile_cost_nothing_but_their_precision(came, tmp_path, caplog):
    model, tokenizer = loaded(came)
    (came / "model.safetensors").unlink()
    save_model(model, tokenizer, tmp_path / "went")
    assert "float32 is saved" in caplog.text
    assert_equal(loaded(tmp_path / "went")[0].state_dict(), model.state_dict())


def test_files_of_the_hubs_cache_are_copied_not_linked(came, tmp_path, monkeypatch):
    cache = tmp_path / "hub" / "models--some--model"
    snapshot = cache / "snapshots" / "0123"
    for path in (cache / "blobs", snapshot, cache / "refs"):
        path.mkdir(parents=True)
    (cache / "refs" / "main").write_text("0123")
    (came / "pytorch_model.bin").unlink()
    for number, file in enumerate(sorted(came.iterdir())):
        shutil.copy(file, cache / "blobs" / str(number))
        (snapshot / file.name).symlink_to(cache / "blobs" / str(number))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    import huggingface_hub.file_download as downloads

    monkeypatch.setattr(downloads.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model, tokenizer = load_model("some/model", torch.device("cpu")), load_tokenizer("some/model")
    save_model(model, tokenizer, tmp_path / "went")
    assert_along(tmp_path / "went")


def test_a_chat_template_that_was_replaced_does_not_come_back(came, tmp_path):
    model, tokenizer = loaded(came)
    (came / "chat_template.json").write_text(json.dumps({"chat_template": tokenizer.chat_template}))
    save_model(model, tokenizer, tmp_path / "same")
    assert (tmp_path / "same" / "chat_template.json").is_file()
    tokenizer.chat_template = "{{ messages }}"
    save_model(model, tokenizer, tmp_path / "other")
    assert not (tmp_path / "other" / "chat_template.json").exists()
    assert AutoTokenizer.from_pretrained(tmp_path / "other").chat_template == "{{ messages }}"


def test_logprobs_of_what_was_saved(tmp_path):
    model = make_mixture("qwen3_moe")
    save_model(model, make_tokenizer(), tmp_path / "model")
    sequence = ([20, 31, 15], [33, 12, 70])
    again = loaded(tmp_path / "model")[0]
    assert torch.equal(model_logprobs(again, *sequence), model_logprobs(model, *sequence))


def test_what_was_trained_is_not_lost_when_the_model_cannot_be_written(tiny_model_folder, tmp_path, monkeypatch):
    """A run without checkpoints: the same command has only the writing left to do."""
    config = config_of(steps=2, checkpoint={})
    run(tiny_model_folder, tmp_path / "whole", config)

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no config today")

    with monkeypatch.context() as patch:
        patch.setattr("grpo.model.export.folder._describe", fails)
        with pytest.raises(UserError, match="no config today; the weights are there"):
            run(tiny_model_folder, tmp_path / "cut", config)
    assert_equal(written(tmp_path / "cut" / "model"), written(tmp_path / "whole" / "model"))
    monkeypatch.setattr("grpo.trainer.update", lambda *_, **__: pytest.fail("trained again"))
    run(tiny_model_folder, tmp_path / "cut", config)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
    assert not (tmp_path / "cut" / "checkpoints").exists()
