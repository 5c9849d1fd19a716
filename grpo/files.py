"""Small files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from grpo.parallel import is_main


def write_text(file: Path, text: str) -> None:
    """Write beside the file, flush to the disk, rename: a crash leaves the old file or the new one.

    Of several processes the main one writes.
    """
    if not is_main():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    with partial.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(partial, file)
    if os.name == "posix":  # the rename itself is durable once the folder is flushed
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(file: Path, value: Any) -> None:
    """`write_text` of indented JSON; NaN and infinity are a programming error, not a value."""
    write_text(file, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
