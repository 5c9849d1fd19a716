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

from support.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "tests")])  # what a script of the tests imports from


def two_processes(command: list[str], **environment: str) -> list[subprocess.CompletedProcess[str]]:
    """The command twice, as a launcher starts it."""
    port = str(free_port())
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    done = [(process, *process.communicate(timeout=240)) for process in started]
    return [subprocess.CompletedProcess(process.args, process.returncode, out, err) for process, out, err in done]


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
def held(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the folder; it is killed in the end."""
    command = [sys.executable, "-c", HOLD, str(folder), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()
