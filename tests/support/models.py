"""Tiny random models and a char-level tokenizer: no download, milliseconds each.

The character tokenizer writes its BOS itself when asked for special tokens, so a second one is easy to catch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from grpo.model.export import folder as export_folder
from grpo.model.loading.weights import with_whole_attention
from grpo.model.policy import Policy
from grpo.types import Group
from stages.tiny_world import build_tokenizer, model_config

SPECIAL = ("<pad>", "<s>", "</s>", "<|im_end|>", "<think>", "</think>", "<|user|>", "<|assistant|>", "<|system|>")

CHARACTERS = "0123456789+-*/=?!.,:;#\\{}()_ \nabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
VOCABULARY = {token: index for index, token in enumerate((*SPECIAL, *CHARACTERS))}
PAD, BOS, EOS, IM_END = (VOCABULARY[token] for token in SPECIAL[:4])
VOCAB_SIZE = len(VOCABULARY)

CHAT_TEMPLATE = (
    "<s>{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

THINK_TEMPLATE = CHAT_TEMPLATE.replace("<|assistant|>", "<|assistant|><think>\n")


def make_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """One token per character, `<s>` put before a text by the post-processor, as Llama and Gemma do."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel(VOCABULARY, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    raw.decoder = decoders.Fuse()
    raw.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", BOS)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|im_end|>", "<|user|>", "<|assistant|>", "<|system|>"],
    )
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = chat_template
    return tokenizer


def make_model(
    kind: str = "qwen2", seed: int = 0, vocab_size: int = VOCAB_SIZE, end: Any = EOS, **settings: Any
) -> Any:
    """A random two-layer model in eval mode. Weights are wide enough that its distributions are far from uniform."""
    import transformers as hf

    common: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 512,
        "initializer_range": 0.25,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": end,
    }
    if kind == "gpt2":
        for name in ("intermediate_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
            common.pop(name)
        common["n_positions"] = common.pop("max_position_embeddings")
        common |= {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48}
        config: Any = hf.GPT2Config(**common | settings)
    else:
        common["num_key_value_heads"] = 2
        own: dict[str, tuple[Any, dict[str, Any]]] = {
            "qwen2": (hf.Qwen2Config, {"tie_word_embeddings": True}),
            "qwen3": (hf.Qwen3Config, {"head_dim": 8}),
            "llama": (hf.LlamaConfig, {}),
            "mistral": (hf.MistralConfig, {"sliding_window": None}),
            "mistral-window": (hf.MistralConfig, {"sliding_window": 6}),
            "gemma2": (hf.Gemma2Config, {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}),
            "gemma3": (
                hf.Gemma3TextConfig,
                {"head_dim": 8, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
            ),
            "gemma": (hf.GemmaConfig, {"head_dim": 8}),
            "phi3": (hf.Phi3Config, {}),
            "olmo2": (hf.Olmo2Config, {}),
            "cohere": (hf.CohereConfig, {}),
            "granite": (hf.GraniteConfig, {}),
            "gpt-oss": (hf.GptOssConfig, {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}),
        }
        cls, extra = own[kind]
        config = cls(**common | extra | settings)
    torch.manual_seed(seed)
    return with_whole_attention(hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32)).eval()


def save_model(folder: Path, kind: str = "qwen2", **settings: Any) -> Path:
    """In Hugging Face format, with the tokenizer."""
    make_model(kind, **settings).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def policy_of(kind: str = "qwen2", **settings: Any) -> Policy:
    return Policy(make_model(kind, **settings), make_tokenizer(), torch.device("cpu"))


@torch.no_grad()
def move(model: Any, size: float = 0.05, seed: int | None = None) -> None:
    """Change every trained value, as training does."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += size * torch.randn(parameter.shape, generator=generator)


def model_logprobs(
    model: Any, prompt: Sequence[int], completion: Sequence[int], temperature: float = 1.0
) -> torch.Tensor:
    """Log-probs of a completion by one plain, unpadded forward of the model: what everything is compared with."""
    ids = torch.tensor([[*prompt, *completion]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].double() / temperature
    table = logits.log_softmax(-1)
    return torch.stack([table[len(prompt) + t - 1, token] for t, token in enumerate(completion)])


def farthest(groups: Sequence[Group], model: Any, temperature: float = 1.0) -> float:
    """Largest difference between the engine's log-probs and those of a plain forward of the model."""
    gaps = []
    for group in groups:
        for done in (rollout.completion for rollout in group.rollouts):
            plain = model_logprobs(model, group.prompt_ids, done.token_ids, temperature)
            gaps.append((torch.tensor(done.logprobs, dtype=torch.float64) - plain).abs().max())
    return float(torch.stack(gaps).max())  # NaN where one is


def word_model(texts: list[str], vocabulary: int, folder: Path) -> str:
    """The folder of a random model with a tokenizer of these texts."""
    from transformers import AutoModelForCausalLM

    tokenizer = build_tokenizer(texts, vocabulary)
    torch.manual_seed(0)
    export_folder.save_model(AutoModelForCausalLM.from_config(model_config(len(tokenizer), 32, 2)), tokenizer, folder)
    return str(folder)
