"""The table of docs/models.md: `python tests/matrix/table.py` writes it anew (some minutes), with NAMES prints rows."""

from __future__ import annotations

import logging
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from matrix.trial import Outcome, tried  # noqa: E402

PAGE = ROOT / "docs" / "models.md"
HEAD = "| architecture | full | LoRA | prompts | sampled by |\n|---|---|---|---|---|\n"


def architectures() -> list[str]:
    """Every causal language model that this transformers knows."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def row(name: str, full: Outcome, lora: Outcome) -> str:
    how = next((found.note for found in (full, lora) if found.state == "works"), "– | –")
    notes = dict.fromkeys(found.note.replace("|", "/") for found in (full, lora) if found.state != "works")
    cells = [full.state, lora.state]
    if notes:
        cells[cells.index(next(state for state in cells if state != "works"))] += f": {'; '.join(notes)}"
    return f"| `{name}` | {cells[0]} | {cells[1]} | {how} |"


def row_of(name: str, folder: Path) -> str:
    return row(name, *tried(name, folder))


def table() -> str:
    """What the page holds: from the table's head to its last row."""
    found = re.search(re.escape(HEAD) + r"(?:\|.*\n)+", PAGE.read_text(encoding="utf-8"))
    assert found is not None, f"{PAGE} has no such table"
    return found.group()


def rows() -> dict[str, str]:
    """The page's rows, by architecture."""
    return {line.split("`")[1]: line for line in table().removeprefix(HEAD).splitlines()}


def main(names: list[str]) -> None:
    logging.getLogger("grpo").setLevel(logging.ERROR)
    made = []
    for name in names or architectures():
        with tempfile.TemporaryDirectory() as folder:
            made.append(row_of(name, Path(folder)))
        print(made[-1], flush=True)
    if not names:
        text = PAGE.read_text(encoding="utf-8").replace(table(), HEAD + "".join(f"{line}\n" for line in made))
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
