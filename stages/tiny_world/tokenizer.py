"""The tokenizer and the model configuration of the tiny world."""

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config

# Padding is a token of its own: it differs from both ends, that of a turn and that of a document.
PAD, START, END, DOCUMENT_END = "<|pad|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")

# The newline stands before a turn, not after it: nothing follows the last end token.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '' if loop.first else '\\n' }}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n<|im_start|>assistant\\n' }}{% endif %}"
)

# Words keep their marks (Thai vowels are marks), a leading space, a LaTeX command's backslash; digits stand alone.
_PIECES = Regex(r" ?\\?[\p{L}\p{M}]+|\d| ?[^\s\p{L}\p{M}\d]|\s+")


def build_tokenizer(texts: list[str], vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of at most `vocab_size` tokens, special ones included. The tags of the chain of
    thought are single tokens that survive decoding without special tokens; the end token differs from padding."""
    tokenizer = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(_PIECES, "isolated")
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, by_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(TAGS),
        special_tokens=[PAD, START, END, DOCUMENT_END],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START, DOCUMENT_END],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def model_config(vocab_size: int, hidden_size: int = 128, layers: int = 3, **overrides: Any) -> Qwen3Config:
    """A stock Qwen3 of about 0.7M parameters with tied embeddings.

    Not Qwen2: for that type AutoTokenizer replaces the tokenizer's splitting by its own, which breaks Thai words at
    their vowels. The weights start at about 1/sqrt(hidden_size); the usual 0.02 is for wide models and learns slower.
    """
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": 3 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.08,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 2,
    } | overrides
    return Qwen3Config(**{"head_dim": hidden_size // settings["num_attention_heads"]} | settings)
