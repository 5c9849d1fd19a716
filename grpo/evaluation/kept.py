"""Answers of an evaluation, each in a file as it comes: who is stopped asks for none of them again."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo.errors import UserError
from grpo.system.files import append_text, whole_rows
from grpo.system.fingerprint import digest

log = logging.getLogger("grpo")

ASKED = ".asked"  # of the file beside a result that keeps the answers until that is written
SUM = "sum"  # of a row: an edited answer is none that the model gave


def kept_file(result: Path) -> Path:
    """Where the answers lie until this result is written."""
    return result.with_name(result.name + ASKED)


@dataclass(frozen=True)
class Kept:
    """A file of answers. `made_with`: hash of all that they follow from. `strict`: other answers in it are somebody's
    to move away; else they are passed over."""

    file: Path
    made_with: str
    strict: bool = True

    def read(self) -> dict[tuple[str, int], dict[str, Any]]:
        """{(prompt's id, sample): answer}; what a kill has cut short, or was edited, is not among them.

        Raises:
            UserError: `strict`, and they were asked with something else.
        """
        if not self.file.exists():
            return {}
        rows = [row for _, row in whole_rows(self.file)]
        whole = [row for row in rows if row.get(SUM, _sum(row)) == _sum(row)]
        if len(whole) < len(rows):
            log.warning("'%s': %d answers were edited or damaged: asked again", self.file, len(rows) - len(whole))
        ours = [row for row in whole if row.get("made_with") == self.made_with]
        if self.strict and len(ours) < len(whole):
            text = "these answers were asked with other settings or questions: move the file away"
            raise UserError(f"'{self.file}': {text}")
        append_text(self.file, "\n")  # a kill may have cut the last line short
        return {(row["id"], row["sample"]): row["answer"] for row in ours}

    def add(self, key: tuple[str, int], answer: Mapping[str, Any]) -> None:
        row = {"made_with": self.made_with, "id": key[0], "sample": key[1], "answer": answer}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        append_text(self.file, json.dumps({**row, SUM: _sum(row)}) + "\n")


def _sum(row: Mapping[str, Any]) -> str:
    """Of a row as JSON gives it back."""
    return digest([row.get(name) for name in ("made_with", "id", "sample", "answer")])
