"""Trainings on real disks that fill up or become read-only; the script of test_disks.py, in a mount namespace.

Prints one JSON line a case: what the run said, whether it went on to the same end once there was room.
"""

import contextlib
import itertools
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from faults import torture
from grpo.checkpoint.store import last_good
from grpo.errors import UserError
from support.models import save_model

SIZES = (100, 250, 400, 700, 1000, 1600)  # KiB; the run takes about 1,100


@contextlib.contextmanager
def disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of `size` KiB."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def attempt(model: Path, out: Path) -> str:
    try:
        torture.train(model, out, "full")
    except UserError as error:
        return str(error)
    return "done"


def warnings() -> list[str]:
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("grpo").addHandler(handler)
    return found


def main(folder: Path) -> None:
    model = save_model(folder / "model", initializer_range=0.08)
    torture.train(model, folder / "alone", "full")
    expected, said = torture.fingerprint(folder / "alone"), warnings()
    for size in SIZES:
        said.clear()
        with disk(folder / "disk", size) as place:
            end, log = attempt(model, place / "run"), list(said)
            whole = not (place / "run" / "checkpoints").exists() or last_good(place / "run" / "checkpoints")
            partial = [str(path) for path in place.rglob("*.partial")]
            subprocess.run(["mount", "-o", "remount,size=100m", str(place)], check=True)
            again = attempt(model, place / "run")
            equal = torture.fingerprint(place / "run") == expected
        case = {"size": size, "end": end, "log": log, "whole": bool(whole), "partial": partial}
        print(json.dumps({**case, "again": again, "equal": equal}), flush=True)

    on_reward: list[Callable[[], None]] = [lambda: None]
    torture.before(lambda _: on_reward[0](), torture.Job, "call", lambda *_, **__: "reward")
    for name in ("checkpoints", "completions"):
        said.clear()
        out = folder / f"read-only-{name}"
        on_reward[0] = third_time(lambda path=out / name: read_only(path))
        end, log = attempt(model, out), list(said)
        on_reward[0] = lambda: None
        subprocess.run(["umount", str(out / name)], check=True)
        again = attempt(model, out)
        case = {"read-only": name, "end": end, "log": log, "again": again}
        print(json.dumps({**case, "equal": torture.fingerprint(out) == expected}), flush=True)


def third_time(act: Callable[[], None]) -> Callable[[], None]:
    calls = itertools.count(1)
    return lambda: act() if next(calls) == 3 else None


def read_only(folder: Path) -> None:
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
