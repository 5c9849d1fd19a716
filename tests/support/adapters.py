"""Adapters made with peft beside their base models, as people bring them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.models import EOS, IM_END, make_model, move, save_model


def based_on(folder: Path, base: str | None) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base}))


def adapter_of(kind: str, folder: Path, *, change: float = 0.3, **settings: Any) -> str:
    """An adapter with these settings of peft's, every trained value moved."""
    import peft

    base = save_model(folder / "base", kind, end=[EOS, IM_END])
    chosen = {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": False} | settings
    adapted = peft.get_peft_model(make_model(kind), peft.LoraConfig(**chosen)).eval()
    move(adapted, change, seed=0)
    adapted.save_pretrained(folder / "adapter")
    based_on(folder / "adapter", str(base))
    return str(folder / "adapter")
