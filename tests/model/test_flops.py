"""FLOPs of an update and their share of the peak, against figures worked out by hand."""

import pytest
import torch

from grpo.config.algorithm import LoraConfig
from grpo.model.adapter import add_adapter
from grpo.model.flops import ModelSize, mfu, peak_flops, positions, seen_pairs, size_of
from grpo.model.packing import make_input
from support.models import VOCAB_SIZE, make_model

CPU = torch.device("cpu")
# Two completions, of 3 and 2 tokens, of a prompt of 4: the last token of each stays out of the rows.
SEQUENCES = [((1, 2, 3, 4), (5, 6, 7)), ((1, 2, 3, 4), (8, 9))]


@pytest.mark.parametrize(
    ("share", "tokens", "pairs", "window"),
    [
        # The prompt sees 1+2+3+4, the completions 5+6 and 5; with a window of 3: 1+2+3+3, 3+3, 3.
        (True, 4 + 2 + 1, 10 + 11 + 5, 9 + 6 + 3),
        # Two rows padded to 6 tokens: 1+...+6 each; 1+2+3+3+3+3 each.
        (False, 2 * 6, 2 * 21, 2 * 15),
    ],
)
def test_flops_of_an_update_by_hand(share, tokens, pairs, window):
    rows = make_input(SEQUENCES, CPU, share_prompts=share)
    assert (rows.token_ids.numel(), len(rows.predictors)) == (tokens, 5)
    assert [seen_pairs(positions(rows), seen) for seen in (None, 3)] == [pairs, window]
    size = ModelSize(1000, 100, 1000, 100, ((8, None), (4, 3)))
    assert size.of_update(rows) == 6 * (1000 * tokens + 100 * 5) + 12 * (8 * pairs + 4 * window)
    adapted = ModelSize(1000, 100, 10, 0, ((8, None), (4, 3)))
    assert adapted.of_update(rows) == (4 * 1000 + 20) * tokens + 400 * 5 + 12 * (8 * pairs + 4 * window)


def test_size_of_a_model_leaves_the_lookup_out():
    """Qwen3 of 2 layers of width 32: 4 heads and 2 key/value heads of width 8, a feed-forward layer of 48."""
    attention = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 2 * 8  # with the norms of queries and keys
    layers = 2 * (attention + 3 * 32 * 48 + 2 * 32) + 32
    head = 32 * VOCAB_SIZE
    for tied in (True, False):
        size = size_of(make_model("qwen3", tie_word_embeddings=tied))
        assert size == ModelSize(layers, head, layers, head, ((2 * 4 * 8, None),))
    adapted = size_of(add_adapter(make_model("qwen3"), LoraConfig(r=2, alpha=4), seed=0))
    trained = 2 * 2 * (32 + 32 + 2 * (32 + 16) + 32 + 32 + 3 * (32 + 48))
    assert adapted == ModelSize(layers + trained, head, trained, 0, ((64, None),))


def test_windows_of_a_model():
    gemma = make_model("gemma2", sliding_window=5, layer_types=["sliding_attention", "full_attention"])
    size = size_of(gemma)
    assert size is not None
    assert [window for _, window in size.attention] == [None, 5]
    assert size.attention[0][0] == size.attention[1][0]


@pytest.mark.parametrize(
    ("name", "dtype", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("NVIDIA A100 80GB PCIe", "float32", 19.5e12),
        ("NVIDIA H200", "float16", 989.4e12),
        ("NVIDIA H200 NVL", "bfloat16", 835e12),
        ("NVIDIA L40S", "bfloat16", 362e12),
        ("NVIDIA L40", "bfloat16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bfloat16", None),
        ("NVIDIA GeForce RTX 4090 D", "bfloat16", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bfloat16", None),
        ("NVIDIA H20", "bfloat16", None),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("NVIDIA Something", "bfloat16", None),
    ],
)
def test_peaks_by_name(name, dtype, peak):
    assert peak_flops(name, dtype) == peak


def test_mfu_is_null_where_something_is_unknown():
    assert mfu(1e12, 2.0, 1e12) == 0.5
    assert mfu(1e12, 2.0, None) is None
    assert mfu(None, 2.0, 1e12) is None
