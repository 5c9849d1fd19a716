"""Every causal language model of transformers, tiny: sizes are found by the names that configs give them.

Settings are such that every feature of an architecture acts within some twenty tokens: windows and chunks shorter than
the prompts, layers of every kind, caps and factors far from where they do nothing, dropout that would show.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from support.models import BOS, EOS, PAD, VOCAB_SIZE

LAYERS, WIDTH, HEADS, HEAD = 4, 32, 4, 8
# The first pattern that fits a setting's whole name says its value.
SIZES: dict[str, Any] = {
    r"attention_bias|mlp_bias|use_qk_norm|use_sliding_window|qk_layernorm": True,
    r"vocab_size|vocab_size_per_layer_input|decoder_vocab_size|ngram_vocab_size_base": VOCAB_SIZE,
    r"bos_token_id|decoder_start_token_id|cls_token_id": BOS,
    r"eos_token_id|sep_token_id": EOS,
    r"pad_token_id": PAD,
    r"max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length|model_max_length|max_target_positions": 512,
    r"linear_num_heads_size|(input_|output_|word_|position_)?embedding_size|(backbone_|text_|attention_)?hidden_size\w*"
    r"|d_model|n_embd|emb_dim|(ple_|word_)?embed\w*_dim|lru_width|embedding_dim": WIDTH,
    r"(num_|n_|\w*coder_)*(hidden_)?(layers?|blocks)|depth": LAYERS,
    r"(index_n|indexer_n|linear_num_key|linear_num_value|linear_num|n_mamba|mamba_num|mamba_n)_heads": HEADS,
    r"(swa_)?num_(key_value|kv)_heads|num_query_groups": 2,
    r"(swa_)?(num_|n_|\w*coder_)*(attention_)?heads?": HEADS,
    r"mamba_(head_?dim|d_head)": 2 * WIDTH // HEADS,
    r"\w*(head_dim|d_head|dim_head|head_size)|kv_channels|query_pre_attn_scalar": HEAD,
    r"mamba_d_ssm": 2 * WIDTH,
    r"\w*_(rank|lowrank)|rotary_dim|d_rel|hidden_size_per_layer_input": HEAD,
    r"\w*intermediate_size\w*|\w*ffn_dim|ffn_hidden_size|n_inner|dff|dim_ff|feed_forward_size|d_inner": 48,
    r"num_experts_per_tok(en)?|moe_k|moe_topk|top_k_experts": 2,
    r"index_topk\w*": 64,  # every token: which of them attention selects jumps with the last digit of a score
    r"num_experts|n_routed_experts|num_local_experts|moe_num_experts|zero_expert_num": 4,
    r"n_group|topk_group|n_groups|o_groups": 1,
    r"\w*sliding_window|\w*window_size|attention_chunk_size|local_attention|sliding_window_size": 6,
    r"(ssm_)?state_size|mamba_d_state": HEAD,
    r"\w*chunk_size|block_size|index_block_size|\w*chunk_length": 8,
    r"attn_logit_softcapping|final_logit_softcapping|\w*soft_cap": 2.0,
    r"logits?_(scaling|scale)|embedding_multiplier|lm_head_multiplier": 0.5,
    r"residual_multiplier|attention_multiplier": 0.3,
    r"partial_rotary_factor|rotary_pct": 0.5,
    r"initializer_range": 0.1,
    r"\w*(dropout|pdrop)": 0.1,
}  # fmt: skip
# Settings that are given a value although their default is None.
OPTIONAL = r"\w*token_id|\w*softcapping|num_key_value_heads|head_dim|\w*window|\w*num_experts\w*|n_routed_experts"
BLENDED = {"attention_hidden_size": 2 * WIDTH, "attention_head_dim": 2 * HEAD, "use_mamba_kernels": False}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
# What the names do not tell.
EXTRAS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {
        "rope_parameters": dict.fromkeys(["sliding_attention", "full_attention"], ROPE | {"mrope_section": [1, 1, 2]})
    },
    "diffllama": {"attention_dropout": 0.0},
    "dots1": {"n_shared_experts": 1, "first_k_dense_replace": 1},
    "gemma3n_text": {"num_kv_shared_layers": 2, "intermediate_size": 48},
    # Left at 512, scores of normed queries and keys, which it does not scale, are all that softmax sees: transformers'
    # own forward in fp32 is then 1e-5 from its own in fp64.
    "gemma4_text": {"global_head_dim": 2 * HEAD},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "longcat_flash": {"expert_ffn_hidden_size": 48, "ffn_hidden_size": 48},
    "mamba2": {"head_dim": 16},
    "MptAttentionConfig": {"attn_pdrop": 0},
    "qwen4_exp_text": {
        "indexer_n_heads": HEADS,
        "indexer_kv_heads": 1,
        "indexer_head_dim": HEAD,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
    },
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "roc_bert": {"shape_vocab_size": VOCAB_SIZE, "pronunciation_vocab_size": VOCAB_SIZE},
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "chunk_size": 64},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
    "zamba": BLENDED | {"num_hidden_layers": 6, "layers_block_type": ["mamba", "mamba", "hybrid"] * 2},
    "zamba2": BLENDED | {"layers_block_type": ["mamba", "hybrid"] * 2},
}


def settings_of(config_class: Any) -> dict[str, Any]:
    """Small values for the settings of this config, those of the configs in it too."""
    plain = config_class()
    chosen: dict[str, Any] = {}
    for name, value in plain.to_dict().items():
        size = next((size for pattern, size in SIZES.items() if re.fullmatch(pattern, name)), None)
        fits = isinstance(value, int | float) and isinstance(value, bool) == isinstance(size, bool)
        fits |= isinstance(value, list) and name.endswith("token_id")
        if size is not None and (fits or (value is None and re.fullmatch(OPTIONAL, name))):
            chosen[name] = size
    chosen |= _layer_kinds(plain)
    if "kv_lora_rank" in chosen:  # multi-head latent attention
        chosen |= {"num_key_value_heads": HEADS, "head_dim": HEAD, "qk_head_dim": 2 * HEAD}
    for name in getattr(plain, "sub_configs", {}):
        part = getattr(plain, name, None)
        if part is not None:
            chosen[name] = settings_of(type(part))
    return chosen | EXTRAS.get(config_class.model_type, {}) | EXTRAS.get(config_class.__name__, {})


def _layer_kinds(config: Any) -> dict[str, list[str]]:
    """Layers of every kind that its own layers have, windows too where it knows them."""
    kinds: Sequence[str] | None = getattr(config, "layer_types", None)
    name = config.attribute_map.get("layer_types", "layer_types")
    if not kinds or isinstance(getattr(type(config), name, None), property):
        return {}
    distinct = list(dict.fromkeys(kinds))
    if distinct == ["full_attention"] and hasattr(config, "sliding_window"):
        distinct = ["sliding_attention", "full_attention"]
    return {name: [distinct[place % len(distinct)] for place in range(LAYERS)]}


def config_of(name: str) -> Any:
    """The tiny config of this architecture (transformers' `model_type`)."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[name]
    return config_class(**settings_of(config_class))
