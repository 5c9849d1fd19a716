"""What the step-time benchmarks run: models from their configs with random weights, prompts, completion lengths."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAD, END = 0, 1
WARM_UP = 24  # tokens of a completion at most, in the step that is not counted
SIGMA = 0.7  # of the lognormal that long-tailed lengths come from

SMALL = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 4, "num_attention_heads": 4}
LARGE = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "num_attention_heads": 8}
TINY = {"num_key_value_heads": None, "head_dim": 32, "tie_word_embeddings": True}  # heads / 2
QWEN = {"max_position_embeddings": 32768, "rope_theta": 1e6, "tie_word_embeddings": True, "num_key_value_heads": 2}
HALF_B = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
ONE_HALF_B = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12}


@dataclass(frozen=True)
class Workload:
    """One step: `prompts` x `group` completions. `mean` None: all have `max_tokens`, the end token included."""

    what: str
    prompts: int
    prompt_tokens: int
    max_tokens: int
    mean: int | None
    model: dict[str, Any]
    trl_rows: int  # completions in one forward and backward of TRL: its fastest
    vocabulary: int = 512
    group: int = 8
    kind: str = "Qwen3"
    dtype: str = "float32"
    ours: dict[str, Any] = field(default_factory=dict)  # of our config
    repeats: int = 1  # times as many steps as of the others: short ones vary more

    def lengths(self, step: int) -> list[int]:
        """Tokens of each completion of a step: the same numbers in every step, in another order, but fewer in step 0,
        the warm-up."""
        count = self.prompts * self.group
        values = [self.max_tokens] * count if self.mean is None else long_tailed(count, self.mean, self.max_tokens)
        if step == 0:
            values = [min(value, WARM_UP) for value in values]
        random.Random(step).shuffle(values)
        return values

    def rows(self) -> list[dict[str, str]]:
        """The prompts of every step: random words, each of one token."""
        draw = random.Random(0)
        return [
            {"prompt": " ".join(f"w{draw.randrange(2, self.vocabulary)}" for _ in range(self.prompt_tokens))}
            for _ in range(self.prompts)
        ]


def long_tailed(count: int, mean: float, largest: int) -> list[int]:
    """The quantiles of a lognormal cut at `largest`, scaled so that their mean is within one token of `mean`."""
    shape = [math.exp(SIGMA * statistics.NormalDist().inv_cdf((i + 0.5) / count)) for i in range(count)]
    low, high = 0.0, 4.0 * largest
    for _ in range(60):
        scale = (low + high) / 2
        values = [max(1, min(largest, round(scale * x))) for x in shape]
        low, high = (scale, high) if sum(values) < mean * count else (low, scale)
    return values


# TRL's rows, by single steps on two quiet cores. W1: a step takes 1.06 s with 64, 1.10 with 128 and twice the memory.
# W2: the update takes 9.9 s and 969 MB with 8, 9.8 s and 1.8 GB with 16, 10.2 s and 501 MB with 4; W3 has rows as long.
# W4: 58.8 s and 5.1 GB with 8, 47.9 s and 1.5 GB with 2. Of equal speeds the one with less memory.
# Ours: the default micro-batch of 4,096 tokens, but a group at a time (1,200) on W4: 8.6 s and 592 MB, against 7.8 s
# and 1.5 GB for all at once.
W2 = Workload("GSM8K-like", 8, 160, 300, 120, {**TINY, **LARGE}, 8)
CPU_WORKLOADS = {
    "W1": Workload("short", 32, 22, 22, None, {**TINY, **SMALL}, 64, repeats=4),
    "W2": W2,
    "W3": Workload("long prompt", 8, 512, 64, None, {**TINY, **LARGE}, 8),
    "W4": Workload(
        "W2 with a vocabulary of 32k",
        *(8, 160, 300, 120, {**TINY, **LARGE}, 2, 32768),
        ours={"micro_batch_tokens": 1200},
    ),
}
ON_GPU = {
    "vocabulary": 151936,
    "group": 16,
    "kind": "Qwen2",
    "dtype": "bfloat16",
    "ours": {"micro_batch_tokens": 16384},
}
GPU_WORKLOADS = {
    "G1": Workload("Qwen2.5-0.5B", 8, 160, 1024, 400, {**QWEN, **HALF_B}, 16, **ON_GPU),
    "G2": Workload("Qwen2.5-1.5B", 8, 160, 1024, 400, {**QWEN, **ONE_HALF_B}, 16, **ON_GPU),
}
WORKLOADS = CPU_WORKLOADS | GPU_WORKLOADS


def make_model(folder: Path, work: Workload) -> int:
    """Save the random model and a tokenizer of one word a token; the number of its parameters."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"<pad>": PAD, "<eos>": END, **{f"w{i}": i for i in range(2, work.vocabulary)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(0)
    settings = {**work.model, "vocab_size": work.vocabulary, "pad_token_id": PAD, "eos_token_id": END}
    settings["num_key_value_heads"] = settings["num_key_value_heads"] or settings["num_attention_heads"] // 2
    config = getattr(transformers, f"{work.kind}Config")(**settings)
    model = getattr(transformers, f"{work.kind}ForCausalLM")(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(model.num_parameters())
