"""Where a command is to write: asked before it does anything."""

from __future__ import annotations

import os
from pathlib import Path

from grpo.errors import UserError
from grpo.system.files import check_leads_somewhere


def check_out(run: Path, option: str = "--out") -> None:
    """The output folder must be one that we can write to, or not exist below such a folder."""
    for part in (run, *run.parents):
        check_leads_somewhere(part)
        if part.exists():
            if not part.is_dir():
                raise UserError(f"{option} '{run}': '{part}' is a file, not a folder; give another {option}")
            if not os.access(part, os.W_OK | os.X_OK):
                raise UserError(f"{option} '{run}': no permission to write to '{part}'; give another {option}")
            return


def check_out_file(out: str, option: str = "--out", example: str = "out.json") -> Path:
    """The output file, of a name that is not a folder's, in a folder as `check_out` wants it."""
    file = Path(out)
    if file.is_dir() or out.endswith("/"):
        raise UserError(f"{option} '{out}': a folder; give the name of a file, such as {file / example}")
    if file.exists() and not file.is_file():  # a device would be replaced by a file
        raise UserError(f"{option} '{out}': not a regular file; give another {option}")
    check_out(file.parent, option)
    return file
