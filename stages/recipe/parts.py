"""Samples that are kept part by part, so that an interrupted sampling goes on where it was.

What is drawn follows from (seed, prompt, sibling) alone: the parts that are missing come out as they would have.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grpo.data.rows import Row
from grpo.system.files import write_text
from grpo.system.fingerprint import checksum
from grpo.system.world import is_main


@dataclass(frozen=True)
class Parts:
    """A folder of parts that all came from the same settings, model and data (`origin`)."""

    folder: Path
    origin: str

    def read(self) -> tuple[int, list[Row]]:
        """(prompts done, their rows) of the parts from the first one on that are whole and of this origin."""
        done, rows = 0, list[Row]()
        for file in sorted(self.folder.glob("part-*.jsonl")):
            part = self._part(file, done)
            if part is None:
                break
            done, rows = done + part[0], rows + part[1]
        return done, rows

    def _part(self, file: Path, done: int) -> tuple[int, list[Row]] | None:
        head, _, body = file.read_text(encoding="utf-8", errors="replace").partition("\n")
        try:
            part = json.loads(head)
        except json.JSONDecodeError:
            return None
        if part != self._head(done, part.get("prompts"), body):
            return None
        return part["prompts"], [json.loads(line) for line in body.splitlines()]

    def add(self, done: int, prompts: int, rows: Sequence[Row]) -> None:
        """The part of the `prompts` prompts after the first `done`. Of several processes the main one writes."""
        body = "".join(json.dumps(row) + "\n" for row in rows)
        write_text(self.folder / f"part-{done:08d}.jsonl", json.dumps(self._head(done, prompts, body)) + "\n" + body)

    def _head(self, done: int, prompts: int, body: str) -> Row:
        return {"origin": self.origin, "from": done, "prompts": prompts, "sha256": checksum(body)}

    def drop(self) -> None:
        """They are no longer needed."""
        if is_main():
            shutil.rmtree(self.folder, ignore_errors=True)
