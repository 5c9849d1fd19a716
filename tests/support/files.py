"""Files as they are, and files that a bad disk has changed."""

from __future__ import annotations

from pathlib import Path


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file below the folder."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts}


def flip(file: Path, place: int = -2) -> None:
    """Another bit in one byte."""
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])
