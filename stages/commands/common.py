"""What every command shares: one-line errors, exit codes, and where shipped configs lie. Imports nothing heavy."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from grpo.errors import UserError, nearest, public
from grpo.system import stopping
from grpo.system.files import FULL
from grpo.system.stopping import Stopped, handled
from grpo.system.world import World, is_main, join, launched

if TYPE_CHECKING:  # help need not wait for it
    from stages.recipe.config import RecipeConfig

log = logging.getLogger("grpo")

UNWRITABLE = (*FULL, errno.EROFS, errno.EFBIG, errno.EIO)  # of a disk: full, read-only, a file too large for it, broken
FAILURE = "grpo/failure"  # where the processes of a run note which of them fails first


class Parser(argparse.ArgumentParser):
    """argparse whose errors are `UserError`s: one line instead of the usage. Options are never abbreviated."""

    def __init__(self, prog: str, description: str, examples: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; see {self.prog} --help")

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Overrides may stand between the options; an unknown option gets the nearest known one."""
        known, unknown = self.parse_known_intermixed_args(list(arguments))
        for word in unknown:
            options = [option for action in self._actions for option in action.option_strings]
            raise UserError(f"{self.prog}: unknown option '{word}'{nearest(word.split('=')[0], options)}")
        return known


def add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings to override, from the root")


def guarded(command: Callable[[list[str]], int], arguments: Sequence[str]) -> int:
    """Run a command: 0 only on success, 2 on a user error with one line, 130 on Ctrl-C, 143 on SIGTERM, 1 on a bug.

    Of several processes the main one speaks; when they fail, the first that does says why.
    """
    _open_what_is_closed()
    with handled(ends=True):
        try:
            join()
            with contextlib.redirect_stdout(sys.stdout if is_main() else io.StringIO()):
                code = command(list(arguments))
            sys.stdout.flush()
            stopping.hold(True)  # all of the processes end with this code, or were stopped
            stopping.check(World.current())
            return code
        except UserError as error:
            return _failed(2, f"error: {' '.join(str(error).split())}")
        except Stopped as stopped:
            return _failed(128 + stopped.signal, f"{stopped}: the same command goes on from here")
        except KeyboardInterrupt:  # of a library, in its own name
            return _failed(130, "interrupted: the same command goes on from here")
        except BrokenPipeError:  # the reader of our output is gone, e.g. `| head`
            _drop(sys.stdout)
            return 141
        except OSError as error:  # a full disk, a file that is not ours to read: a traceback would explain nothing
            log.debug("%s", traceback.format_exc())
            _drop(sys.stdout)
            again = "; once that is mended, the same command goes on from here" if error.errno in UNWRITABLE else ""
            return _failed(2, f"error: {reason(error)}{again}")
        except Exception:  # noqa: BLE001  a bug: shown whole, and an exit code that is not 2
            return _failed(1, traceback.format_exc())


def _open_what_is_closed() -> None:
    """A program started with `>&-` has no such stream, and the first file it opens would take its place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def _drop(stream: TextIO) -> None:
    """What cannot be written of it goes nowhere: the interpreter flushes once more at its exit."""
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def reason(error: OSError) -> str:
    """One line: the file and what the system says of it, or the library that raised it."""
    if error.strerror is None:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return f"'{error.filename}': {error.strerror}" if error.filename is not None else error.strerror


def _first_failure(code: int) -> tuple[int, bool]:
    """(exit code of the run, whether this process is the one to say why), when a command fails with `code` here.

    The processes of a run fail together: by the same mistake, or because one of them is gone. The first says so.
    """
    if not launched():
        return code, True
    from torch import distributed

    if not distributed.is_initialized():
        return code, is_main()
    mine = f"{code} {distributed.get_rank()}"
    try:
        store = distributed.distributed_c10d._get_default_store()
        first = store.compare_set(FAILURE, "", mine).decode()
    except distributed.DistError:  # the store went with the process that kept it, which has said why
        return code, False
    return int(first.split()[0]), first == mine


def _failed(code: int, text: str) -> int:
    code, speaks = _first_failure(code)
    if speaks:
        try:
            print(public(text), file=sys.stderr, flush=True)  # a row, a reply or a file may be quoted in it
        except OSError:  # nobody reads it either
            _drop(sys.stderr)
    return code


def find_config(name: str) -> Path:
    """A local file, or a config shipped with the package (``tiny.yaml`` or ``configs/tiny.yaml``)."""
    local = Path(name)
    if local.is_file():
        return local
    shipped = shipped_configs()
    if local.parent in (Path("."), Path("configs")) and local.name in shipped:
        return shipped[local.name]
    if local.is_dir():
        raise UserError(f"config '{name}': a folder, not a YAML file")
    raise UserError(f"config '{name}': no such file{nearest(local.name, shipped)}")


def read_recipe(name: str, overrides: list[str]) -> RecipeConfig:
    """The recipe in `find_config(name)` with these overrides; from here on its `runtime.log_level` holds."""
    from grpo.config.file import read_config
    from grpo.system.runtime import quiet
    from stages.recipe.config import RecipeConfig

    config = read_config(RecipeConfig, find_config(name), overrides)
    quiet(config.runtime.log_level)
    return config


def shipped_configs() -> dict[str, Path]:
    """Name -> file. In a wheel they lie inside `stages`, in a checkout beside it."""
    here = Path(__file__).resolve().parents[1]
    folder = next((path for path in (here / "configs", here.parent / "configs") if path.is_dir()), None)
    return {file.name: file for file in sorted(folder.glob("*.yaml"))} if folder else {}
