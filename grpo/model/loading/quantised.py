"""Quantised checkpoints: those that can be made weights again are, the others are refused."""

from __future__ import annotations

from typing import Any

from grpo.errors import UserError, first_line


def quantisation(config: Any) -> dict[str, Any]:
    """What config.json says of its codes; nothing when the weights are numbers."""
    settings = getattr(config, "quantization_config", None)
    return settings or getattr(config.get_text_config(), "quantization_config", None) or {}


def dequantising(config: Any) -> Any:
    """How the weights are to be loaded so that they are numbers that can be trained; None when they are that.

    Raises:
        UserError: they cannot, or a package for it is missing.
    """
    settings = quantisation(config)
    if not settings:
        return None
    from transformers.quantizers.auto import AutoHfQuantizer, AutoQuantizationConfig

    method = settings.get("quant_method") or next((key for key in settings if key.startswith("load_in_")), "unknown")
    wanted = f"its weights are quantised ({method}), which cannot be trained: give the model that they were made from"
    try:
        plan = AutoQuantizationConfig.from_dict(dict(settings))
        if hasattr(plan, "dequantize"):
            plan.dequantize = True
        AutoHfQuantizer.from_config(plan, pre_quantized=True).validate_environment(device_map=None, weights_only=True)
    except Exception as error:
        raise UserError(f"{wanted} (here they cannot even be read: {first_line(error)})") from error
    if not getattr(plan, "dequantize", False):
        raise UserError(wanted)
    return plan
