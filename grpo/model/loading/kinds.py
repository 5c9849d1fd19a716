"""Architectures that a run would refuse once their weights are loaded: told from config.json, before a stage computes.

Found by trying (docs/models.md), and tests/matrix compares these with what a run says.
"""

from __future__ import annotations

import json
from pathlib import Path

from grpo.errors import UserError
from grpo.model.loading.files import local_folder

UNTRAINED = {
    "cpmant": "it is not causal: later tokens change what it says of earlier ones",
    "xlm": "it is not causal: later tokens change what it says of earlier ones",
    "xlnet": "it is not causal: later tokens change what it says of earlier ones",
    "modernbert-decoder": "it makes its logits in a way that the trainer does not know",
    "prophetnet": "it makes its logits in a way that the trainer does not know",
}
UNSAMPLED = ("blt", "moshi", "recurrent_gemma", "reformer", "rwkv", "xlstm")


def check_kind(model: str, engine: str) -> None:
    """`engine`: its kind. A hub name whose files are not here is not looked up.

    Raises:
        UserError: RL cannot train such a model, or this engine cannot sample from it.
    """
    folder = local_folder(model)
    file = (folder or Path()) / "config.json"
    if folder is None or not file.is_file():
        return
    try:
        kind = json.loads(file.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):  # said where it is read
        return
    if kind in UNTRAINED:
        raise UserError(f"model '{model}': RL cannot train a '{kind}': {UNTRAINED[kind]}")
    if engine == "local" and kind in UNSAMPLED:
        raise UserError(
            f"model '{model}': the embedded engine cannot sample from a '{kind}': what transformers generates is not "
            "what its forward gives; use engine=vllm if vLLM serves it"
        )
