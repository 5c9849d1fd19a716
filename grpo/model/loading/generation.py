"""Generation settings: read, and mended where transformers would refuse to save them with the model."""

from __future__ import annotations

import copy
import math
from typing import Any

from grpo.errors import UserError, first_line

TOKENS = {"eos_token_id", "bos_token_id", "transformers_version"}


def read_generation(model: str, config: Any) -> Any:
    """What generation_config.json of a model says, or else its config.

    Raises:
        UserError: it cannot be read, or its tokens have no embedding.
    """
    from transformers import GenerationConfig

    try:
        settings = GenerationConfig.from_pretrained(model)
    except Exception as error:
        if isinstance(error, OSError) and "valid JSON" not in str(error):  # there is none
            return GenerationConfig.from_model_config(config)
        text = first_line(error, typed=not isinstance(error, OSError | ValueError))
        raise UserError(f"its generation_config.json cannot be read: {text}") from error
    rows = getattr(config.get_text_config(), "vocab_size", math.inf)
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        value = getattr(settings, name)
        for index in value if isinstance(value, list) else [value]:
            unset = index is None or (name == "pad_token_id" and index == -1)
            if not unset and (type(index) is not int or not 0 <= index < rows):
                raise UserError(f"{name} is {index!r} in generation_config.json, and the model has {rows} tokens")
    return settings


def mended(settings: Any) -> str:
    """Make `settings` valid, in place; returns what was changed, empty when nothing was.

    Who gives a temperature or top-p with `do_sample: false` (Llama 2's and Vicuna's chat models) means sampling: it is
    switched on. What still is not valid goes, setting by setting; tokens that end a text always stay.
    """
    if (refusal := _refusal(settings)) is None:
        return ""
    sampling = copy.deepcopy(settings)
    sampling.do_sample = True
    if settings.do_sample is not True and settings.temperature != 0 and _refusal(sampling) is None:
        settings.do_sample = True
        return f"do_sample is set to true ({refusal})"
    given = {name: value for name, value in settings.to_diff_dict().items() if name not in TOKENS}
    for name in given:
        setattr(settings, name, None)
    dropped = []
    for name, value in given.items():  # back, one by one
        setattr(settings, name, value)
        if _refusal(settings) is not None:
            setattr(settings, name, None)
            dropped.append(name)
    return f"{', '.join(dropped)} left out ({refusal})"


def _refusal(settings: Any) -> str | None:
    """What transformers says against it."""
    try:
        settings.validate(strict=True)
    except ValueError as error:
        lines = [line.removeprefix("- ") for line in str(error).splitlines() if line.startswith("- ")]
        return lines[0] if lines else first_line(error)
    return None
