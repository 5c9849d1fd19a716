"""Models with one thing wrong, as people bring them: made from a tiny one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from support.models import EOS, IM_END, save_model

NORM, DOWN = "model.layers.1.input_layernorm.weight", "model.layers.0.mlp.down_proj.weight"
WEIGHTS = "model.safetensors"
Break = Callable[[Path], None]


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor] | None]) -> Break:
    """Rewrite the file of the weights."""

    def apply(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        held = change(held) or held
        save_file({name: value.contiguous() for name, value in held.items()}, folder / WEIGHTS, {"format": "pt"})

    return apply


def without(*names: str) -> Break:
    return tensors(lambda held: {name: value for name, value in held.items() if name not in names})


def prefixed(prefix: str) -> Break:
    return tensors(lambda held: {prefix + name: value for name, value in held.items()})


def replaced(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Break:
    return tensors(lambda held: held | {name: change(held[name])})


def settings(**changes: Any) -> Break:
    """Rewrite config.json."""

    def apply(folder: Path) -> None:
        file = folder / "config.json"
        values = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({name: value for name, value in values.items() if value is not ...}))

    return apply


def written(name: str, content: str | bytes) -> Break:
    def apply(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return apply


def generation(**changes: Any) -> Break:
    return written("generation_config.json", json.dumps({"eos_token_id": 2} | changes))


def cut(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def sharded(folder: Path, keep_whole: bool = False) -> list[Path]:
    """The same weights in two files and an index."""
    held = load_file(folder / WEIGHTS)
    names = sorted(held)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    files = [folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for file, half in zip(files, halves, strict=True):
        save_file({name: held[name] for name in half}, file, {"format": "pt"})
    places = {name: file.name for file, half in zip(files, halves, strict=True) for name in half}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    if not keep_whole:
        (folder / WEIGHTS).unlink()
    return files


def shard_missing(folder: Path) -> None:
    sharded(folder)[1].unlink()


def twice(folder: Path, change: float = 1.0) -> None:
    """One weight in both shards."""
    files = sharded(folder)
    first = load_file(files[0])
    save_file(load_file(files[1]) | {min(first): first[min(first)] + change}, files[1], {"format": "pt"})


def both(folder: Path) -> None:
    sharded(folder, keep_whole=True)


def pickled(change: Callable[[dict[str, Any]], Any] = lambda held: held) -> Break:
    """The weights as a pickled file."""

    def apply(folder: Path) -> None:
        torch.save(change(load_file(folder / WEIGHTS)), folder / "pytorch_model.bin")
        (folder / WEIGHTS).unlink()

    return apply


def adapter_beside(folder: Path) -> None:
    written("adapter_config.json", json.dumps({"base_model_name_or_path": str(folder), "peft_type": "LORA"}))(folder)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 4096\n"

# name: (kind of model, what breaks it, what the line says)
BROKEN: dict[str, tuple[str, Break, str]] = {
    "no lm_head": ("llama", without("lm_head.weight"), r"1 weight \(lm_head.weight\) is missing"),
    "no norm": ("qwen3", without(NORM), rf"1 weight \({NORM}\) is missing"),
    "no bias": ("qwen2", without("model.layers.0.self_attn.k_proj.bias"), r"k_proj.bias\) is missing"),
    "no mlp": ("qwen2", without(DOWN), rf"1 weight \({DOWN}\) is missing"),
    "no embeddings": ("qwen2", without("model.embed_tokens.weight"), r"embed_tokens.weight\) are missing"),
    "misnamed": (
        "llama",
        tensors(lambda held: held | {"model.layers.0.mlp.down.weight": held.pop(DOWN)}),
        r"down_proj.weight\) is missing .*; 1 weight \(model.layers.0.mlp.down.weight\) is in its files",
    ),
    "left over": ("llama", tensors(lambda held: held | {"extra.bias": torch.ones(3)}), r"extra.bias\) is in its files"),
    "compiled": ("llama", prefixed("_orig_mod."), r"21 weights begin with '_orig_mod.': strip that"),
    "data parallel": ("qwen2", prefixed("module."), r"begin with 'module.'"),
    "adapter's names": ("qwen2", prefixed("base_model.model."), r"begin with 'base_model.model.'"),
    "compiled layers": (
        "llama",
        tensors(lambda held: {name.replace(".self_attn.", "._orig_mod.self_attn."): t for name, t in held.items()}),
        r"the names of 8 weights hold '_orig_mod.': strip that",
    ),
    "sharded": (
        "llama",
        tensors(lambda h: {f"_fsdp_wrapped_module.{n.replace('.mlp', '.mlp._fsdp_wrapped_module')}": h[n] for n in h}),
        r"the names of 21 weights hold '_fsdp_wrapped_module.': strip that",
    ),
    "transposed": ("llama", replaced(DOWN, lambda t: t.T), rf"1 weight \({DOWN}\) is of another shape"),
    "shape": ("llama", replaced("lm_head.weight", lambda t: t[:-3]), r"lm_head.weight is \(\d+, 32\) and config.json"),
    "int8": ("llama", replaced(DOWN, lambda t: (t * 100).to(torch.int8)), rf"{DOWN} is int8"),
    "float8": ("llama", replaced(DOWN, lambda t: t.to(torch.float8_e4m3fn)), rf"{DOWN} is float8_e4m3fn"),
    "all NaN": ("llama", tensors(lambda h: {n: t * torch.nan for n, t in h.items()}), "20 more weights are not finite"),
    "one infinite": ("llama", replaced(NORM, lambda t: t / 0), f"{NORM} is not finite"),
    "untied": (
        "qwen2",
        tensors(lambda held: held | {"lm_head.weight": held["model.embed_tokens.weight"] + 1}),
        "ties lm_head.weight to model.embed_tokens.weight, and its files hold another",
    ),
    "cut short": ("llama", cut, "model.safetensors is damaged or cut short"),
    "pointer": ("llama", written(WEIGHTS, POINTER), "model.safetensors is a Git LFS pointer"),
    "empty": ("llama", written(WEIGHTS, ""), "model.safetensors is empty"),
    "no weights": ("llama", lambda folder: (folder / WEIGHTS).unlink(), "weights cannot be found: .*model.safetensors"),
    "shard missing": ("llama", shard_missing, "model-00002-of-00002.safetensors is missing"),
    "index broken": (
        "llama",
        lambda f: (shard_missing(f), written("model.safetensors.index.json", "{")(f))[1],
        "index",
    ),
    "in two shards": ("llama", twice, r"lm_head.weight is one in model-00001-of-00002.safetensors and another in"),
    "two models": ("llama", both, "holds two models, model.safetensors and the shards"),
    "bin cut": ("llama", lambda f: (pickled()(f), written("pytorch_model.bin", b"PK\x03\x04xx")(f))[1], "cut short"),
    "bin with code": ("llama", pickled(lambda held: held | {"x": Path("a")}), "more than weights, which is never run"),
    "bin no names": ("llama", pickled(lambda held: list(held.values())), "other things than weights by name"),
    "bin misses": ("llama", pickled(lambda held: {n: t for n, t in held.items() if n != NORM}), f"{NORM}.* is missing"),
    "vocabulary": (
        "llama",
        settings(vocab_size=200),
        r"lm_head.weight is \(\d+, 32\) and config.json says \(200, 32\)",
    ),
    "hidden": ("llama", settings(hidden_size=64), "of another shape"),
    "more layers": ("llama", settings(num_hidden_layers=3), r"9 weights \(model.layers.2.* missing"),
    "fewer layers": ("llama", settings(num_hidden_layers=1), r"9 weights \(model.layers.1.* would be lost"),
    "invalid config": ("llama", written("config.json", "{"), "config.json cannot be read: .*not a valid JSON"),
    "no type": ("llama", settings(model_type=...), "config.json cannot be read: .*model_type"),
    "unknown type": ("llama", settings(model_type="llamax"), "config.json cannot be read: .*llamax"),
    "config of odd types": ("llama", settings(hidden_size="x"), "config.json cannot be read: .*hidden_size"),
    "config of odd sizes": ("llama", settings(hidden_size=33), "config.json cannot be read: .*hidden size"),
    "config a list": ("llama", written("config.json", "[]"), "config.json cannot be read"),
    "unknown rope": ("llama", settings(rope_parameters={"rope_type": "odd", "factor": 2.0}), "odd"),
    "own code": ("llama", settings(model_type="mine", auto_map={"AutoConfig": "a.B"}), "code of its own .*never run"),
    "encoder": ("llama", settings(model_type="bert"), "'bert' is an encoder"),
    "encoder and decoder": ("llama", settings(model_type="t5"), "'t5' is an encoder with a decoder"),
    "vision": ("llama", settings(model_type="vit"), "'vit' is not a causal language model"),
    "gptq": ("llama", settings(quantization_config={"quant_method": "gptq", "bits": 4}), r"quantised \(gptq\)"),
    "awq": ("llama", settings(quantization_config={"quant_method": "awq", "bits": 4}), r"quantised \(awq\)"),
    "nf4": ("llama", settings(quantization_config={"load_in_4bit": True}), r"quantised \(load_in_4bit\).*bitsandbytes"),
    "compressed": (
        "llama",
        settings(quantization_config={"quant_method": "compressed-tensors", "format": "pack-quantized"}),
        r"quantised \(compressed-tensors\).*compressed.tensors",
    ),
    "fp8": ("llama", settings(quantization_config={"quant_method": "fp8"}), r"quantised \(fp8\)"),
    "mxfp4": ("gpt-oss", settings(quantization_config={"quant_method": "mxfp4"}), r"quantised \(mxfp4\)"),
    "unknown codes": ("llama", settings(quantization_config={"quant_method": "mine"}), r"quantised \(mine\)"),
    "ends of words": ("llama", generation(eos_token_id="</s>"), "eos_token_id is '</s>' in generation_config.json"),
    "end beyond": (
        "llama",
        generation(eos_token_id=[2, 500]),
        "eos_token_id is 500 in generation_config.json, and the",
    ),
    "end negative": ("llama", generation(eos_token_id=-1), "eos_token_id is -1 in generation_config.json"),
    "begin beyond": ("llama", generation(bos_token_id=500), "bos_token_id is 500 in generation_config.json"),
    "padding beyond": ("qwen2", generation(pad_token_id=500), "pad_token_id is 500 in generation_config.json"),
    "generation cut": (
        "llama",
        written("generation_config.json", "{"),
        "generation_config.json cannot be read: .*JSON",
    ),
    "generation a list": (
        "llama",
        written("generation_config.json", "[1]"),
        "generation_config.json cannot be read: T",
    ),
    "generation odd": (
        "llama",
        generation(watermarking_config={"odd": 1}),
        "generation_config.json cannot be read: TypeError: Watermarking",
    ),
    "generation of several": (
        "llama",
        generation(num_return_sequences=3),
        "generation_config.json cannot be read: Greedy methods",
    ),
    "adapter beside": ("llama", adapter_beside, r"whole weights \(model.safetensors\) and an adapter"),
}


def broken_model(case: str, folder: Path) -> str:
    kind, break_it, _ = BROKEN[case]
    shutil.rmtree(folder, ignore_errors=True)
    save_model(folder, kind, end=[EOS, IM_END])
    break_it(folder)
    return str(folder)
