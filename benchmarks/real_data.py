"""Where the real data lies that tests and benchmarks use, when it is there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def data_folder() -> Path | None:
    """`GRPO_DATA`, or ../shared/data beside the project; None when there is no such folder."""
    folder = Path(os.environ.get("GRPO_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    return folder if (folder / "cases").is_dir() else None


def rows_of(file: str) -> Iterator[dict[str, Any]]:
    """The rows of one of its JSONL files."""
    folder = data_folder()
    assert folder is not None, "set GRPO_DATA"
    with (folder / file).open() as lines:
        yield from map(json.loads, lines)
