"""Tiny random models and a char-level tokenizer, built once per session: no download, milliseconds each.

The character tokenizer writes its BOS itself when asked for special tokens, so a second one is easy to catch.
"""

from __future__ import annotations

import fcntl
import logging
import random
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo.types import Completion, Group, Prompt, Rollout

# Whoever starts the tests in the background has Ctrl-C ignored, and so would the runs that are stopped by it.
signal.signal(signal.SIGINT, signal.default_int_handler)

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
        }
        cls, extra = own[kind]
        config = cls(**common | extra | settings)
    torch.manual_seed(seed)
    return hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A test of vLLM that is skipped has shown nothing: it counts as failed."""
    report = yield
    if report.skipped and item.get_closest_marker("vllm"):
        report.outcome, report.longrepr = "failed", "skipped, and a test of vLLM must run"
    return report


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 of 20k parameters with the char-level tokenizer, in Hugging Face format."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_model("qwen2", initializer_range=0.08).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def model_of() -> Callable[..., Any]:
    return make_model


def prompt_of(ids: Sequence[int], name: str = "p", task: str = "default") -> Prompt:
    return Prompt(id=name, token_ids=tuple(ids), text="", task=task)


def random_prompts(count: int, seed: int = 0, low: int = 2, high: int = 14) -> list[Prompt]:
    """Prompts of different lengths, without end tokens."""
    rng = random.Random(seed)
    return [
        prompt_of([rng.randrange(len(SPECIAL), VOCAB_SIZE) for _ in range(rng.randrange(low, high))], f"p{i}")
        for i in range(count)
    ]


def model_logprobs(
    model: Any, prompt: Sequence[int], completion: Sequence[int], temperature: float = 1.0
) -> torch.Tensor:
    """Log-probs of a completion by one plain, unpadded forward of the model: what everything is compared with."""
    ids = torch.tensor([[*prompt, *completion]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].double() / temperature
    table = logits.log_softmax(-1)
    return torch.stack([table[len(prompt) + t - 1, token] for t, token in enumerate(completion)])


def assert_same_metrics(ours: dict[str, float | None], theirs: dict[str, float | None]) -> None:
    """Equal but for rounding; the mismatch of the engine's log-probs is nothing but rounding here."""
    for name, value in theirs.items():
        if name in ("executed_tokens", "update_flops"):  # what it cost depends on how it was cut
            continue
        limit = 1e-5 if name.startswith("logprob_mismatch") else 2e-7
        assert ours[name] == (None if value is None else pytest.approx(value, rel=1e-5, abs=limit)), name


def group_of(prompt: Prompt, rewards: Sequence[float | None], ids: Sequence[Sequence[int]] | None = None) -> Group:
    """A group with these rewards; completions of one token each unless given."""
    tokens = ids or [(9,)] * len(rewards)
    return Group(
        prompt,
        tuple(
            Rollout(Completion(tuple(t), (0.0,) * len(t), "stop", ""), {"r": r}, r)
            for t, r in zip(tokens, rewards, strict=True)
        ),
    )


@pytest.fixture
def only_sandbox() -> Iterator[None]:
    """One test at a time over all test processes: the sandbox's own tests look at every sandbox on the machine."""
    with open(Path(tempfile.gettempdir()) / "grpo-sandbox-tests.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(autouse=True)
def usual_log_level() -> None:
    """What a run or a command in another test made of it (`runtime.log_level`, say) is not for this one."""
    logging.getLogger("grpo").setLevel(logging.WARNING)
