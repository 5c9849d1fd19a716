"""A .gguf file is the model that was packed into it, wherever a model is named, or is refused in one line."""

import errno
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import peft
import pytest
import torch

from grpo.errors import UserError
from grpo.model.loading.files import local_folder
from grpo.model.loading.gguf import KINDS, TOKENS, _compare_tokens, _read
from grpo.model.loading.tokenizer import decoded, end_token_ids, load_tokenizer
from grpo.model.loading.weights import examine, load_model, load_outline, look_at_values
from support.adapters import based_on
from support.gguf import MIXED, SPECIAL, TEMPLATE, TEXTS, Kind, packed

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "grpo-gguf"


GEMMA = {"head_dim": 256, "query_pre_attn_scalar": 256, "num_attention_heads": 1, "num_key_value_heads": 1}
ALONE = {  # what no file of the kind says, or transformers does not read
    "qwen3": {"head_dim": 128},
    "gemma2": GEMMA,
    "gemma3": {**GEMMA, "num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]},
}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_is_packed_is_loaded(kind, tmp_path):
    """Tensors of five types: each value and every logit."""
    file, model, _ = packed(tmp_path, kind, **ALONE.get(kind, {}))
    loaded = load_model(str(file), CPU)
    own, found = model.state_dict(), loaded.state_dict()
    assert own.keys() == found.keys()
    assert all(torch.equal(own[name], found[name]) for name in own)
    ids = torch.arange(40)[None] * 7 % model.config.vocab_size
    assert torch.equal(model(ids).logits, loaded(ids).logits)
    assert not examine(str(file)).missing
    look_at_values(str(file))
    assert load_outline(str(file)).generation_config.eos_token_id == [2]


@pytest.mark.parametrize("split", ["smollm", "qwen2", "llama-bpe", "gpt-2"])
def test_texts_are_read_as_they_were(split, tmp_path):
    file, _, tokenizer = packed(tmp_path, split=split)
    loaded = load_tokenizer(str(file))
    for text in TEXTS:
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"], text
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.chat_template == TEMPLATE
    for name in ("bos", "eos", "unk", "pad"):
        assert getattr(loaded, f"{name}_token_id") == getattr(tokenizer, f"{name}_token_id")


DEEPSEEK = ("<｜▁pad▁｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
VOCABULARIES = {  # the last: its unknown token
    "smollm": ("smollm", SPECIAL, "llama", 0),
    "llama 3": ("llama-bpe", ("<|pad|>", "<|begin_of_text|>", "<|eot_id|>"), "llama", None),
    "distilled qwen": ("deepseek-r1-qwen", DEEPSEEK, "qwen2", None),
    "distilled llama": ("llama-bpe", DEEPSEEK, "llama", None),
    "qwen": ("qwen2", SPECIAL, "qwen2", None),
    "other qwen": ("qwen2", ("<unk>", "<|object_ref_start|>", "<|im_end|>"), "qwen2", 0),
    "gpt-2": ("gpt-2", ("[UNK]", "[CLS]", "[SEP]"), "qwen3", 0),
}
ADDED = ("‹思考>", "two words", "  ", "<think>", "</think>", "ยิ้ม", "<é>", "\n\n\n", "🙂")  # inside and outside bytes


@pytest.mark.parametrize("name", VOCABULARIES)
def test_control_and_added_tokens_are_whole_in_any_vocabulary(name, tmp_path):
    """Before: cut into bytes where they are not of the byte alphabet, and refused without `<|endoftext|>`."""
    split, special, kind, unknown = VOCABULARIES[name]
    given = {"tokenizer.ggml.unknown_token_id": unknown}
    file, _, tokenizer = packed(
        tmp_path, kind, split, metadata=given, special=special, added=ADDED, **ALONE.get(kind, {})
    )
    loaded = load_tokenizer(str(file))
    whole = [*special, *ADDED]
    for text in (*TEXTS, *whole, *(f"a{token}b {token}" for token in whole), "".join(whole)):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"], text
        assert decoded(loaded, loaded(text)["input_ids"]) == decoded(tokenizer, tokenizer(text)["input_ids"])
    assert len(loaded("a‹思考>b", add_special_tokens=False)["input_ids"]) == 3
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.unk_token_id == unknown
    assert set(loaded.all_special_tokens) - {special[0]} == set(special[1:])


@pytest.mark.parametrize("kind", [3, 4])
def test_a_token_that_is_cut_is_refused(kind, tmp_path):
    """Whatever transformers makes of it: here one that it was not told of."""
    said, _ = _read(packed(tmp_path)[0])
    folder = local_folder(str(tmp_path / "llama.gguf"))
    types = [
        kind if token == "ĠĠ" else old
        for token, old in zip(said[f"{TOKENS}tokens"], said[f"{TOKENS}token_type"], strict=True)
    ]
    with pytest.raises(UserError, match=r"its token 'ĠĠ' is \d+, and transformers reads .* in a text"):
        _compare_tokens(folder, {**said, f"{TOKENS}token_type": types})


@pytest.mark.parametrize(("bos", "eos"), [(True, False), (False, True), (True, True), (False, False)])
def test_the_file_says_what_is_put_around_a_text(bos, eos, tmp_path):
    given = {"tokenizer.ggml.add_bos_token": bos, "tokenizer.ggml.add_eos_token": eos}
    loaded = load_tokenizer(str(packed(tmp_path, split="llama-bpe", metadata=given)[0]))
    text = loaded("Hello", add_special_tokens=False)["input_ids"]
    assert loaded("Hello")["input_ids"] == [1] * bos + text + [2] * eos


def test_ends_of_turns_stop(tmp_path):
    """Those that the file names, and control tokens that are known for it."""
    file, *_ = packed(tmp_path, metadata={"tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.eot_token_id": 1})
    assert end_token_ids(load_outline(str(file)), load_tokenizer(str(file))) == (0, 1, 2)


def test_precision_is_kept_where_it_is_no_code(tmp_path):
    file, *_ = packed(tmp_path, types=(Kind.BF16,))
    folder = local_folder(str(file))
    outline = load_outline(str(file))
    assert outline.config.dtype == torch.bfloat16
    assert (folder / "model.safetensors").stat().st_size < 2.5 * outline.num_parameters()
    assert load_model(str(file), CPU).dtype == torch.float32
    assert load_model(str(packed(tmp_path / "b", types=MIXED)[0]), CPU).config.dtype == torch.float32


def row(size: int) -> tuple[np.ndarray, Kind]:
    return np.ones(size, dtype=np.float32), Kind.F32


REFUSED = {
    "stretched": ({"metadata": {"llama.rope.scaling.type": "yarn"}}, "its rope.scaling.type is yarn"),
    "factor": ({"metadata": {"llama.rope.scaling.factor": 8.0}}, "its rope.scaling.factor is 8.0, and transformers"),
    "window": ({"metadata": {"general.name": "mistral"}}, "its attention.sliding_window is None"),
    "experts": ({"metadata": {"llama.expert_count": 8}}, "its expert_count is 8"),
    "positions": ({"tensors": {"rope_freqs.weight": row(4)}}, "would be lost, rope_freqs.weight"),
    "bias": ({"tensors": {"blk.0.attn_q.bias": row(32)}}, "would be lost, blk.0.attn_q.bias"),
    "lacking": ({"tensors": {"blk.1.ffn_up.weight": None}}, "are missing, model.layers.1.mlp.up_proj.weight"),
    "shape": ({"tensors": {"blk.1.attn_norm.weight": row(31)}}, "of another shape"),
    "kind": ({"metadata": {"general.architecture": "mamba"}}, "a 'mamba', and of .gguf files only llama"),
    "split": ({"metadata": {"tokenizer.ggml.pre": "viking"}}, "its tokenizer .gpt2, viking. is not one"),
    "old": ({"metadata": {"tokenizer.ggml.pre": None}}, "its tokenizer .gpt2, None. is not one"),
    "pieces": ({"metadata": {"tokenizer.ggml.model": "llama"}}, "its tokenizer .llama, smollm. is not one"),
    "parts": ({"metadata": {"split.count": 2}}, "one of 2 parts"),
    "outside": ({"metadata": {"tokenizer.ggml.bos_token_id": 999}}, "cannot read it"),
    "no number": ({"tensors": {"output_norm.weight": (np.full(32, np.nan, dtype=np.float32), Kind.F32)}}, "not finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_lost_is_refused(case, tmp_path, cache):
    changes, text = REFUSED[case]
    file, *_ = packed(tmp_path, **changes)
    for look_at in (lambda name: load_model(name, CPU), lambda name: (examine(name), look_at_values(name))):
        with pytest.raises(UserError, match=text) as error:
            look_at(str(file))
        assert str(error.value).startswith(f"model '{file}': ")
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda held: held[: len(held) - 4000], "damaged, cut short or no GGUF file"),
        (lambda held: held[:2000], "damaged, cut short or no GGUF file"),
        (lambda held: b"no such thing" * 100, "damaged, cut short or no GGUF file"),
        (lambda held: b"", "damaged, cut short or no GGUF file"),
    ],
)
def test_what_is_no_whole_file_is_refused(change, text, tmp_path, cache):
    file, *_ = packed(tmp_path)
    file.write_bytes(change(file.read_bytes()))
    for look_at in (load_tokenizer, examine):
        with pytest.raises(UserError, match=text) as error:
            look_at(str(file))
        assert str(error.value).startswith(f"model '{file}': ")
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_file_that_is_not_there(tmp_path):
    for name in (f"{tmp_path}/x.gguf", "x.gguf", "models/x.gguf"):
        with pytest.raises(UserError, match=f"model '{re.escape(name)}': no such file"):
            load_tokenizer(name)
    (tmp_path / "x.bin").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"a file; give the model.s folder, a [.]gguf file"):
        load_tokenizer(str(tmp_path / "x.bin"))


def test_the_package_is_named_where_it_is_missing(tmp_path, monkeypatch):
    file, *_ = packed(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(UserError, match="to read it takes: pip install gguf"):
        load_tokenizer(str(file))


def test_it_is_unpacked_once_and_anew_where_it_changes(tmp_path, cache, monkeypatch):
    file, *_ = packed(tmp_path)
    first = local_folder(str(file))
    with monkeypatch.context() as patch:
        patch.setattr("grpo.model.loading.gguf._unpack", lambda *_: pytest.fail("unpacked again"))
        assert local_folder(str(file)) == first
    other, *_ = packed(tmp_path / "other", seed=1)
    file.write_bytes(other.read_bytes())
    second = local_folder(str(file))
    assert second != first
    assert not torch.equal(load_model(str(file), CPU).lm_head.weight, load_model(str(first), CPU).lm_head.weight)


def test_a_killed_one_leaves_nothing_that_is_taken_for_a_model(tmp_path, cache, monkeypatch):
    file, *_ = packed(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("grpo.model.loading.gguf._compare_tokens", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            local_folder(str(file))
    assert not [path for path in cache.iterdir() if path.is_dir()]
    whole = local_folder(str(file))
    half = whole.with_name(whole.name + ".partial")  # of one that SIGKILL ended
    whole.rename(half)
    assert local_folder(str(file)) == whole
    assert not half.exists()


def test_an_adapter_may_lie_on_it(tmp_path):
    file, model, tokenizer = packed(tmp_path)
    chosen = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, chosen)
    adapted.save_pretrained(tmp_path / "adapter")
    based_on(tmp_path / "adapter", f"../{file.name}")
    loaded = load_model(str(tmp_path / "adapter"), CPU).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in adapted.merge_and_unload().state_dict().items())
    assert load_tokenizer(str(tmp_path / "adapter"))("x  5")["input_ids"] == tokenizer("x  5")["input_ids"]


def test_a_full_disk_is_named(tmp_path, cache, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file, *_ = packed(tmp_path)
    monkeypatch.setattr("grpo.model.export.weights.write_weights", full)
    with pytest.raises(UserError, match=r"model '.*': cannot write '.*': ") as error:
        load_model(str(file), CPU)
    assert "\n" not in str(error.value)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_two_at_once_make_it_once(tmp_path, cache, monkeypatch):
    file, *_ = packed(tmp_path)
    made: list[Path] = []

    def unpack(source: Path, folder: Path) -> None:
        made.append(folder)
        time.sleep(0.05)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr("grpo.model.loading.gguf._unpack", unpack)
    with ThreadPoolExecutor(4) as threads:
        folders = set(threads.map(local_folder, [str(file)] * 4))
    assert len(folders) == len(made) == 1
