"""Other processes, and what happens to this one at a chosen moment."""

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "tests")])  # what a script of the tests imports from


def start(*words: object, stderr: Any = subprocess.PIPE, apart: bool = False, **environment: str) -> Any:
    """Python with these words, in a process of its own that imports what the tests do. `apart`: a terminal's Ctrl-C
    goes to a whole group of processes, and this one is not in pytest's."""
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=apart,
    )


def finish(process: Any, seconds: float = 240) -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=seconds)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def two_processes(command: list[str], **environment: str) -> list[subprocess.CompletedProcess[str]]:
    """The command twice, as a launcher starts it."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())} | environment
    both = [start(*command, **shared | {"RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]
    return [finish(process) for process in both]


def fork(log: Path, work: Callable[[], int]) -> int:
    """A forked process that does this work and ends with its code, so that imports are paid for once; its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = work()
    except BaseException:  # noqa: BLE001  a forked child must never return into the parent's code
        traceback.print_exc()
    finally:
        os._exit(code)


def end_of(child: int, patience: float = 120.0) -> int:
    """The exit code of a child, or minus the signal; one that does not end is a failure."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 124


def send(number: int) -> None:
    os.kill(os.getpid(), number)


HOLD = """
import sys, time
from pathlib import Path
from grpo.system.world import World
from grpo.system.lock import lock_run
with lock_run(Path(sys.argv[1]), World(), shared="shared" in sys.argv):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held(folder: Path, *words: str) -> Iterator[Any]:
    """Another process holds the folder; it is killed in the end."""
    with start("-c", HOLD, folder, *words) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()
