"""What torchrun starts in each of its processes for test_launched.py: a training of torture.py that says where it is.

launched.py MODEL OUT KIND EVENT COUNT     at the COUNT-th EVENT leave a mark, and take some seconds for it
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

from faults import torture
from stages.commands.common import guarded

LONG = 8.0  # seconds, in parts: a signal that is only remembered does not end a sleep


def main(model: Path, out: Path, kind: str, event: str, count: int) -> None:
    seen = 0

    def here(name: str) -> None:
        nonlocal seen
        seen += name == event
        if seen == count and name == event:
            mark(out, "here").touch()
            until = time.monotonic() + LONG
            while time.monotonic() < until and not mark(out, "go").exists():
                time.sleep(0.02)

    torch.manual_seed(3)
    np.random.seed(3)
    torture.watch(here)
    code = guarded(lambda _: torture.train(model, out, kind) or 0, [])
    mark(out, f"code-{os.environ['RANK']}").write_text(str(code))
    sys.exit(code)


def mark(out: Path, name: str) -> Path:
    return out.with_name(f"{out.name}.{name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
