"""A .gguf file as the model folder that everything else reads: unpacked once, into the cache beside the hub's.

transformers reads such files, and drops in silence what it does not know: how texts are split, rotary positions that
are stretched, tokens that are put in front. So what comes of the file is compared with what it says, and where that
cannot be had it is refused. Quantised weights become float32, others keep their precision.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from grpo.errors import UserError, first_line, one_line
from grpo.system.files import must_write
from grpo.system.fingerprint import digest, file_hash, version

log = logging.getLogger("grpo")

KINDS = ("llama", "qwen2", "qwen3", "gemma2", "gemma3")  # tests/model/test_gguf.py compares each with what was packed
# How texts are split before merges: {name: (a whole word that is a token needs no merges, begins with bos)}. Of other
# names transformers would take GPT-2's way without a word.
SPLITS = {
    **dict.fromkeys(("gpt-2", "smollm", "qwen2", "deepseek-r1-qwen"), (False, False)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), (True, True)),
}
TURN_ENDS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>")  # stop as well, as in llama.cpp
CONTROL, ADDED = 3, 4  # types of tokens that stay whole in a text
HALF = {1: torch.float16, 30: torch.bfloat16}  # types of tensors that are no codes
TOKENS = "tokenizer.ggml."
GIVE = "give the folder that it was made from"


def unpacked(model: str) -> Path:
    """The folder of a .gguf file. Two processes make it once, and a killed one leaves none.

    Raises:
        UserError: the file cannot be read as it is meant, or the disk does not take the folder.
    """
    from filelock import FileLock
    from huggingface_hub import constants

    from grpo.model.export.folder import whole_folder

    file = Path(model)
    made = digest([file_hash(file), version("transformers"), file_hash(Path(__file__))])  # of this code, too
    folder = Path(constants.HF_HOME) / "grpo-gguf" / made
    if not folder.is_dir():
        with must_write(folder, file.stat().st_size):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not folder.is_dir():
                    log.info("'%s' is unpacked into '%s'", model, folder)
                    with whole_folder(folder) as begun:
                        _unpack(file, begun)
    return folder


def _unpack(file: Path, folder: Path) -> None:
    from grpo.model.loading.weights import silent

    try:
        with silent(), redirect_stderr(StringIO()):  # of a bar that cannot be switched off
            said, types = _read(file)
            model, types = _model(file, said, types)
            tokenizer = _tokenizer(file, said)
            with must_write(folder, model.num_parameters() * 4):
                _write(model, types, tokenizer, said, folder)
            _compare_tokens(folder, said)
    except UserError as error:
        raise UserError(f"model '{file}': {error}") from error
    except Exception as error:
        raise UserError(f"model '{file}': transformers cannot read it: {first_line(error, typed=True)}") from error


def _read(file: Path) -> tuple[Mapping[str, Any], dict[str, int]]:
    """What the file says of itself, and {name of a tensor: its type}.

    Raises:
        UserError: it is no whole file, or of a kind that is not read.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise UserError("to read it takes: pip install gguf") from error
    try:
        reader = GGUFReader(file)
        said = {key: field.contents() for key, field in reader.fields.items()}
        types = {tensor.name: int(tensor.tensor_type) for tensor in reader.tensors}
    except Exception as error:
        raise UserError(f"damaged, cut short or no GGUF file ({first_line(error)}): copy it again") from error
    if said.get("split.count", 1) > 1:
        raise UserError(f"one of {said['split.count']} parts: join them with llama-gguf-split --merge")
    if (kind := said.get("general.architecture")) not in KINDS:
        raise UserError(f"a '{kind}', and of .gguf files only {', '.join(KINDS)} are read: {GIVE}")
    return said, types


def _model(file: Path, said: Mapping[str, Any], types: Mapping[str, int]) -> tuple[Any, dict[str, int]]:
    """The model in float32, and {its name of a weight: type in the file}.

    Raises:
        UserError: something of the file is not in it, or the reverse.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import TensorProcessor, get_gguf_hf_weights_map

    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    config = AutoConfig.from_pretrained(**where)
    _compare_config(config, said)
    model = AutoModelForCausalLM.from_pretrained(**where, config=config, dtype=torch.float32)
    names = get_gguf_hf_weights_map(model, TensorProcessor())
    held = set(model.state_dict()) - set(model.all_tied_weights_keys)
    lost = types.keys() - names.keys()
    absent = held - {names[name] for name in types.keys() - lost}
    for left, what in ((lost, "would be lost"), (absent, "are missing")):
        if left:
            raise UserError(f"{len(left)} of its weights {what}, {min(left)} for one: {GIVE}")
    return model, {names[name]: kind for name, kind in types.items()}


def _compare_config(config: Any, said: Mapping[str, Any]) -> None:
    """
    Raises:
        UserError: a setting of the file is another one in the config, or none.
    """
    ropes = config.rope_parameters
    rope, local = ropes.get("full_attention", ropes), ropes.get("sliding_attention", ropes)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    read = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        **dict.fromkeys(("attention.key_length", "attention.value_length", "rope.dimension_count"), head),
        "rope.freq_base": rope["rope_theta"],
        "rope.freq_base_swa": local["rope_theta"],
        "rope.scaling.type": "none" if rope["rope_type"] == "default" else rope["rope_type"],
        "attention.sliding_window": getattr(config, "sliding_window", None),
        "attention.sliding_window_pattern": getattr(config, "_sliding_window_pattern", None),
        "attn_logit_softcapping": getattr(config, "attn_logit_softcapping", None),
        "final_logit_softcapping": getattr(config, "final_logit_softcapping", None),
    }
    kind = f"{said['general.architecture']}."
    given = {key.removeprefix(kind): value for key, value in said.items() if key.startswith(kind)}
    unsaid = {
        "rope.freq_base": 10000.0,
        "rope.scaling.type": "none",
        "attention.head_count_kv": given.get("attention.head_count"),
        "attention.sliding_window": None,
    }
    for key, value in {**unsaid, **given}.items():
        if not _same(value, read.get(key)):
            other = f"takes {read[key]} for it" if read.get(key) is not None else "does not know that"
            raise UserError(f"its {key} is {one_line(str(value), 60)}, and transformers {other}: {GIVE}")
    if (scalar := getattr(config, "query_pre_attn_scalar", head)) != head:  # no file says it
        raise UserError(f"its heads are of {head}, and transformers divides by the root of {scalar}: {GIVE}")


def _same(one: Any, other: Any) -> bool:
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return math.isclose(one, other, rel_tol=1e-6) if numbers else bool(one == other)


def _tokenizer(file: Path, said: Mapping[str, Any]) -> Any:
    """With what transformers leaves out: how texts are split, bos and eos around them.

    Raises:
        UserError: it is of a kind that is not read.
    """
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

    kind, given, special = get_gguf_tokenizer(str(file))
    pieces, split = said.get(f"{TOKENS}model"), said.get(f"{TOKENS}pre")
    bytes_alone = pieces == "gpt2" and split in SPLITS
    if not bytes_alone and not (pieces == "llama" and kind.startswith("gemma")):
        raise UserError(f"its tokenizer ({pieces}, {split}) is not one of those read: {GIVE}")
    whole, begins = SPLITS[str(split)] if bytes_alone else (False, True)
    backend: Tokenizer = convert_gguf_tokenizer(kind, given)[0]
    if bytes_alone:
        backend = _byte_level(said, backend)
    if split == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if split in ("qwen2", "deepseek-r1-qwen"):
        backend.normalizer = normalizers.NFC()  # as its own class has it
    backend.model.ignore_merges = whole
    ends = [
        special[f"{name}_token"] if said.get(f"{TOKENS}add_{name}_token", usual) else None
        for name, usual in (("bos", begins), ("eos", False))
    ]
    if any(ends):
        form = " ".join(filter(None, (ends[0], "$A", ends[1])))
        placed = [(token, backend.token_to_id(token)) for token in ends if token]
        backend.post_processor = TemplateProcessing(single=form, special_tokens=placed)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def _byte_level(said: Mapping[str, Any], made: Any) -> Any:
    """What transformers made, with the tokens of the file alone, as it spells them: a token `<|endoftext|>` is added to
    vocabularies without, and one that is no bytes in their alphabet is spelled so and then not found in any text."""
    from tokenizers import AddedToken, Tokenizer, models

    vocabulary = {token: index for index, token in enumerate(said[f"{TOKENS}tokens"])}
    backend = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in said[f"{TOKENS}merges"]]))
    backend.pre_tokenizer, backend.decoder = made.pre_tokenizer, made.decoder
    for kind, add in ((CONTROL, backend.add_special_tokens), (ADDED, backend.add_tokens)):
        add([AddedToken(token, normalized=False) for _, token, own in _whole(said) if own == kind])
    return backend


def _whole(said: Mapping[str, Any]) -> list[tuple[int, str, int]]:
    """(id, text, type) of each token that stays whole in a text."""
    tokens = zip(said[f"{TOKENS}tokens"], said[f"{TOKENS}token_type"], strict=True)
    return [(index, token, kind) for index, (token, kind) in enumerate(tokens) if kind in (CONTROL, ADDED)]


def _write(model: Any, types: Mapping[str, int], tokenizer: Any, said: Mapping[str, Any], folder: Path) -> None:
    from transformers import GenerationConfig

    from grpo.model.export.names import kept_names
    from grpo.model.export.verify import check_saved
    from grpo.model.export.weights import write_weights

    state, config = model.state_dict(), model.config
    named = ((name, state[name].to(HALF.get(types[name], torch.float32))) for name in kept_names(model))
    config.dtype = write_weights(named, folder)
    config.architectures = [type(model).__name__]
    del config.quantization_config
    config.to_json_file(folder / "config.json")
    turns = [index for index, token, kind in _whole(said) if kind == CONTROL and token in TURN_ENDS]
    stops = [said.get(f"{TOKENS}{name}_token_id") for name in ("eos", "eot", "eom")] + turns
    ends = list(dict.fromkeys(index for index in stops if index is not None))
    settings = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": ends}
    GenerationConfig(**settings).to_json_file(folder / "generation_config.json")
    tokenizer.save_pretrained(folder)
    check_saved(model, folder)


def _compare_tokens(folder: Path, said: Mapping[str, Any]) -> None:
    """
    Raises:
        UserError: the tokenizer as it is read from the folder has other tokens than the file, or cuts one of them.
    """
    from grpo.model.loading.tokenizer import decoded, read_tokenizer

    tokenizer, tokens = read_tokenizer(str(folder), "its tokenizer"), said[f"{TOKENS}tokens"]
    found = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    pairs = enumerate(zip(found, tokens, strict=False))
    other = [index for index, (one, token) in pairs if one != token and decoded(tokenizer, [index]) != token]
    if len(found) != len(tokens) or other:
        raise UserError(f"it has {len(tokens)} tokens, and transformers makes {len(found)}, {len(other)} others")
    for index, token, _ in _whole(said):
        if (ids := tokenizer(token, add_special_tokens=False)["input_ids"]) != [index]:
            read = one_line(str(ids), 60)
            raise UserError(f"its token {one_line(token, 40)!r} is {index}, and transformers reads {read} in a text")
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        if (index := getattr(tokenizer, f"{name}_token_id")) != (given := said.get(f"{TOKENS}{key}_token_id")):
            raise UserError(f"its {key} token is {given}, and transformers takes {index}")
    if tokenizer.chat_template != said.get("tokenizer.chat_template"):
        raise UserError("its chat template is not the one that transformers takes")
