"""What came with a model beside its weights and goes along: licence, tokenizer and processor files, templates."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from grpo.model.loading.files import local_folder

LARGEST = 64 * 2**20  # bytes: tokenizers and licences are smaller
WEIGHTS = "*.safetensors *.bin *.pt *.pth *.ckpt *.h5 *.msgpack *.onnx *.gguf *.ot *.npz"
OTHER = "*.index.json consolidated* params.json adapter_* quantize_config.json quant_*"  # of other weights
PAST = "training_args* trainer_state.json optimizer* scheduler* rng_state* *_results.json events.out*"
CODE = "*.py *.pyc *.pkl *.pickle *.joblib *.so *.ipynb *.sh"  # nothing here is ever run
CARD = "README* .* config.json generation_config.json"  # the card describes another model
LEFT = f"{WEIGHTS} {OTHER} {PAST} {CODE} {CARD}".split()


def folder_of(model: str) -> Path | None:
    """Where the files of a model lie: its folder, or its copy in the hub's cache, to which small files are added that
    loading did not need; None: it has none."""
    from huggingface_hub import snapshot_download

    if model and not Path(model).is_dir():
        with suppress(Exception):  # no network, no such name: then what is in the cache
            snapshot_download(model, ignore_patterns=[*LEFT, "*/*"])
    return local_folder(model) if model else None


def carry_over(source: Path, folder: Path, tokenizer: Any) -> list[str]:
    """Copy from `source` what `folder` lacks and is still true of the model. Returns the names of what was left."""
    left = []
    for file in sorted(source.iterdir()):
        if not file.is_file() or (folder / file.name).exists():
            continue
        if (
            any(fnmatch(file.name, pattern) for pattern in LEFT)
            or file.stat().st_size > LARGEST
            or _stale(file, tokenizer)
        ):
            left.append(file.name)
        else:
            shutil.copyfile(file, folder / file.name)  # of the hub's cache they are links
    return left


def _stale(file: Path, tokenizer: Any) -> bool:
    """A file with a chat template that is not the tokenizer's any more."""
    if file.name == "chat_template.jinja":
        return file.read_text(encoding="utf-8") != tokenizer.chat_template
    if file.name == "chat_template.json":
        return json.loads(file.read_text(encoding="utf-8")).get("chat_template") != tokenizer.chat_template
    return False
