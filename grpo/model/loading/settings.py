"""The config.json of a model: read, and refused where it is not that of a causal language model of plain weights."""

from __future__ import annotations

from typing import Any

from grpo.errors import UserError, first_line


def read_config(model: str, what: str = "model") -> Any:
    """
    Raises:
        UserError: there is none that transformers can read without code from the model's folder.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=False, return_dict=True)  # what all code here reads
    except Exception as error:
        text = " ".join(str(error).split()) if type(error).__name__.startswith("StrictDataclass") else first_line(error)
        if "custom code" in text:
            text = "it wants code of its own (auto_map), which is never run; only transformers' own models are"
        raise UserError(f"{what} '{model}': its config.json cannot be read: {text}") from error


def empty_model(config: Any) -> Any:
    """A causal language model of this config, without its weights.

    Raises:
        UserError: there is none.
    """
    import torch

    auto = causal_class(config)
    try:
        with torch.device("meta"):
            return auto.from_config(config)
    except Exception as error:
        raise UserError(f"config.json makes no model: {first_line(error, typed=True)}") from error


def causal_class(config: Any) -> Any:
    """What builds a causal language model of this config, and `from_config` of it.

    Raises:
        UserError: it is of another kind.
    """
    from transformers import AutoModelForCausalLM

    kind = config.model_type
    if config.is_encoder_decoder:
        raise UserError(f"'{kind}' is an encoder with a decoder, not a causal language model")
    # Encoders have a language model's head too, and see what comes after; GPT-NeoX says so too and does not.
    if getattr(config, "is_decoder", True) is False and not kind.startswith("gpt_neox"):
        raise UserError(f"'{kind}' is an encoder (is_decoder is false), not a causal language model")
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise UserError(f"'{kind}' is not a causal language model")
    text = config.get_text_config()
    if (pad := getattr(text, "pad_token_id", None)) is not None and pad >= text.vocab_size:
        raise UserError(f"pad_token_id is {pad} in config.json, beyond its vocab_size of {text.vocab_size}: mend one")
    return AutoModelForCausalLM


def quantisation(config: Any) -> dict[str, Any] | None:
    """What config.json says of its codes; None when the weights are numbers."""
    settings = getattr(config, "quantization_config", None)
    return getattr(config.get_text_config(), "quantization_config", None) if settings is None else settings


def refuse_quantised(config: Any) -> None:
    """Even those that transformers makes weights again are written back as codes, and one without its scales is taken
    for weights.

    Raises:
        UserError: the weights are codes; it names the package that is missing to read them.
    """
    settings = quantisation(config)
    if settings is None:
        return
    from transformers.quantizers.auto import AutoHfQuantizer, AutoQuantizationConfig

    method = settings.get("quant_method") or next((key for key in settings if key.startswith("load_in_")), "unknown")
    wanted = f"its weights are quantised ({method}), which cannot be trained: give the model that they were made from"
    try:
        plan = AutoQuantizationConfig.from_dict(dict(settings))
        AutoHfQuantizer.from_config(plan, pre_quantized=True).validate_environment(device_map=None, weights_only=True)
    except Exception as error:
        raise UserError(f"{wanted} (here they cannot even be read: {first_line(error)})") from error
    raise UserError(wanted)
