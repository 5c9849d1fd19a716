"""Tokenizers for the chat templates that models ship, on a small vocabulary of bytes or of Metaspace."""

import re
from pathlib import Path
from typing import Any

# What looks like a token in a template's text. Thoughts and tool calls are tokens too, but ordinary ones.
_SPECIAL = re.compile(
    r"<[|｜][^<>'\"{}\s]{1,40}[|｜]>|<[|｜][a-z_]{1,40}>|<[a-z_]{1,40}[|｜]>|</?s>|\[/?[A-Z_]{3,20}\]"
    r"|<(?:start|end)_of_turn>|\[e~\[|\]~b\]|\]~!b\[|<\|[a-z_]+"
)
_END = re.compile(r"end.of.(sentence|turn|text)|im_end|eot|return|</s>|endoftext|^<.end.>$", re.IGNORECASE)
_ADDED = ("<think>", "</think>", "<tool_call>", "</tool_call>")
TEXT = (
    "The quick brown fox says: two plus two is four, and 12 + 30 = 42.\nYes, it is so.\n\nHe said that 3 is odd "
    "\n\nand even\n\nthen"
)


def byte_tokenizer(template: str, bos: str = "<s>", eos: str | None = None) -> Any:
    """Byte-level BPE, split as Qwen's, with the template's tokens; `eos`: else the last that looks like an end."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    words = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(words, "isolated"), bytewise])
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator([TEXT] * 4, trainer)
    return _with_tokens(raw, template, bos, eos)


def metaspace_tokenizer(template: str, bos: str = "<s>", eos: str | None = None, scheme: str = "first") -> Any:
    """As SentencePiece's: a blank `▁` before what it is given, bytes for what it does not know."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    raw.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=tokens, show_progress=False)
    raw.train_from_iterator([TEXT] * 4, trainer)
    return _with_tokens(raw, template, bos, eos)


def _with_tokens(raw: Any, template: str, bos: str, eos: str | None) -> Any:
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    special = list(dict.fromkeys(_SPECIAL.findall(template)))
    ends = [
        token
        for token in special
        if re.search(r"end.of.(sentence|turn|text)|im_end|eot|return|</s>|endoftext|^<.end.>$", token, re.I)
    ]
    eos = eos or (ends[-1] if ends else "</s>")
    raw.add_special_tokens(list(dict.fromkeys([bos, eos, *special])))
    raw.add_tokens([AddedToken(token, normalized=False) for token in _ADDED])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=bos, eos_token=eos, extra_special_tokens=special
    )
    tokenizer.chat_template = template
    return tokenizer


def shipped(folder: Path) -> dict[str, str]:
    """The templates of a folder, by name."""
    return {file.stem: file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.jinja"))}
