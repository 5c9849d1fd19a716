"""Quantised checkpoints, which are refused where weights are trained or compared."""

from __future__ import annotations

from typing import Any

from grpo.errors import UserError, first_line


def quantisation(config: Any) -> dict[str, Any]:
    """What config.json says of its codes; nothing when the weights are numbers."""
    settings = getattr(config, "quantization_config", None)
    return settings or getattr(config.get_text_config(), "quantization_config", None) or {}


def refuse_quantised(config: Any) -> None:
    """Even those that transformers makes weights again are written back as codes, and one without its scales is taken
    for weights.

    Raises:
        UserError: the weights are codes; it names the package that is missing to read them.
    """
    settings = quantisation(config)
    if not settings:
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
