"""What a model's program tries from inside of the sandbox, as root's and as an ordinary user's, with namespaces and
without; after each what happened before."""

import pytest

from grpo.errors import UserError
from rewards.code.reward import code_reward
from rewards.code.sandbox import filters
from rewards.code.sandbox import run as sandbox
from rewards.code.sandbox.run import SandboxError
from support.sandboxes import PLACES, judge_in

pytestmark = pytest.mark.usefixtures("only_sandbox")

ASSERTS = ["assert add(1, 2) == 3", "assert add(40, 2) == 42"]
PAIRS = [{"input": "1 2", "output": "3"}, {"input": "40 2", "output": "42"}]
ADDS = "a, b = map(int, input().split())\nprint(a + b)\n"

LOOKS = """
import os, re
pids = {os.getpid(), os.getppid(), 1}
pid = os.getpid()
while pid > 1:
    try: pid = int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[1])
    except OSError: break
    pids.add(pid)
pids |= set(range(max(2, os.getpid() - 300), os.getpid() + 100))
seen = []
for pid in pids - {os.getpid()}:
    for place in [f'fd/{number}' for number in range(40)] + ['environ', 'cmdline', 'mem']:
        path = f'/proc/{pid}/{place}'
        try: file = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        except OSError:
            try: file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            except OSError: continue
        if place == 'mem': seen.append('a mem'); continue
        try: seen.append(os.pread(file, 10**6, 0).decode('latin1'))
        except OSError: pass
        try: os.write(file, b'{"passed": true}\\n' * 2)
        except OSError: pass
"""
READS_TESTS = (
    LOOKS
    + r"""
def add(a, b):
    pattern = re.compile(re.escape('add(%r, %r) ' % (a, b)) + '== (-?[0-9]+)')
    return next((int(found[1]) for text in seen for found in [pattern.search(text)] if found), None)
"""
)

FORGERIES = {  # before: 1.0 as an ordinary user without namespaces, by the first; 0.0 the others
    "every ancestor's and neighbour's descriptors": READS_TESTS,
    "its own pipes": r"""
import os, struct
for number in range(3, 256):
    for body in (b'["value", 3]', b'{"passed": true}', b'{"output": "3", "ended_well": true, "started": true}'):
        try: os.write(number, struct.pack('>Q', len(body)) + body); os.write(number, body + b'\n')
        except OSError: pass
def add(a, b): return None
""",
    "json, print and sys replaced": """
import builtins, json, sys, os
json.dumps = lambda *a, **k: '["value", 3]'
json.loads = lambda *a, **k: ["value", 3]
builtins.print = builtins.repr = lambda *a, **k: '3'
sys.stdout = sys.__stdout__ = sys.stderr
os.write = lambda *a: 8
def add(a, b): return 7
""",
    "exit functions": """
import atexit, os, sys
atexit.register(lambda: os._exit(0))
def add(a, b): sys.exit(0)
""",
    "frames and the collector": """
import gc, inspect, sys
for item in gc.get_objects():
    if isinstance(item, dict):
        for key in ('passed', 'ended_well', 'partial', 'asserts', 'outputs'):
            if key in item:
                try: item[key] = True
                except Exception: pass
for info in inspect.stack():
    info.frame.f_globals.update(_passes=lambda run: True)
def add(a, b): return 7
""",
}


HELD_BEFORE = [pytest.param(place, marks=pytest.mark.slow) for place in PLACES[:-1]]


@pytest.mark.parametrize("place", [*HELD_BEFORE, PLACES[-1]], ids=" with ".join)
def test_no_verdict_is_forged(place):
    for tests in (ASSERTS, PAIRS):
        values, errors = judge_in(place, list(FORGERIES.values()), tests, timeout=1.5, partial=True)
        assert (values, errors) == ([0.0] * len(FORGERIES), [])


REFUSED = r"""
import ctypes, json, os, signal, socket
libc = ctypes.CDLL(None, use_errno=True)
arm = os.uname().machine == 'aarch64'
def system(x86, aarch64, *arguments):
    if libc.syscall(aarch64 if arm else x86, *arguments) == -1:
        raise OSError(ctypes.get_errno(), '')
def flags(shared):
    import mmap
    mmap.mmap(-1, 1 << 20, flags=0x20 | (1 if shared else 2))
above, me = os.getppid(), os.getpid()
def reach():
    import resource
    return [name for name, action in {
        'memfd': lambda: os.memfd_create('x'),
        'System V memory': lambda: system(29, 194, 0, 1 << 20, 0o1600),
        'System V queue': lambda: system(68, 186, 0, 0o1600),
        'shared anonymous memory': lambda: flags(True),
        'zero mapped': lambda: open('/dev/zero'),
        '/dev/shm': lambda: open('/dev/shm/grpo', 'w'),
        'session keyring': lambda: system(250, 219, 11, -3, 0, 0),
        'user keyring': lambda: system(250, 219, 11, -4, 0, 0),
        'a new key': lambda: system(248, 217, b'user', b'x', b'y', 1, -3),
        'limits of another': lambda: resource.prlimit(above, resource.RLIMIT_CPU, (1, 1)),
        'limits of the first': lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3)),
        'priority of another': lambda: os.setpriority(os.PRIO_PROCESS, above, 19),
        'priority of the user': lambda: os.setpriority(os.PRIO_USER, 0, 19),
        'processors of another': lambda: os.sched_setaffinity(above, {0}),
        'class of another': lambda: os.sched_setscheduler(above, os.SCHED_IDLE, os.sched_param(0)),
        'tracing': lambda: system(101, 117, 0x4206, above, 0, 0),
        'reading memory': lambda: os.open(f'/proc/{above}/mem', os.O_RDONLY),
        'environment': lambda: open(f'/proc/{above}/environ').read(),
        'descriptors': lambda: os.listdir(f'/proc/{above}/fd'),
        'a descriptor by name': lambda: os.readlink(f'/proc/{above}/fd/0'),
        'another user space': lambda: os.unshare(0x10000000) if hasattr(os, 'unshare') else system(272, 97, 0x10000000),
        'another session': lambda: os.setsid(),
        'files of the machine': lambda: open('/etc/passwd'),
        'network': lambda: socket.create_connection(('127.0.0.1', PORT), 2),
        'abstract socket': lambda: socket.socket(socket.AF_UNIX).connect('\0grpo-attack'),
        'another is signalled': lambda: os.kill(above, signal.SIGTERM) if not NAMESPACED else 1 / 0,
        'owner of signals': lambda: __import__('fcntl').fcntl(0, 8, above) if not NAMESPACED else 1 / 0,
    }.items() if worked(action)]
def worked(action):
    try: action(); return True
    except (OSError, ValueError, AttributeError, ZeroDivisionError): return False
def itself():
    import subprocess, threading
    os.kill(me, 0)
    threading.Thread(target=len, args=('x',)).start()
    flags(False)
    socket.socketpair()
    return subprocess.run(['/bin/echo', 'x'], capture_output=True).stdout
"""
SECRET_KEY = """
import ctypes, os
number = 217 if os.uname().machine == 'aarch64' else 248
for ring in (-3, -4):
    ctypes.CDLL(None).syscall(number, b'user', b'grpo', b'open sesame', 11, ring)
import socket, threading
abstract = socket.socket(socket.AF_UNIX); abstract.bind('\\0grpo-attack'); abstract.listen()
network = socket.socket(); network.bind(('127.0.0.1', 0)); network.listen()
PORT = network.getsockname()[1]
"""


@pytest.mark.parametrize("place", PLACES, ids=" with ".join)
def test_nothing_of_others_is_reached(place):
    """Before: memfd, System V memory, shared maps, keyrings, and as an ordinary user limits, priorities and processors
    of the keeper; without namespaces nearly all of it."""
    if not filters.available():
        pytest.skip("needs system call filters and Landlock")
    code = REFUSED.replace("NAMESPACED", str(place[1] == "namespaces"))
    before = SECRET_KEY + "\nfill = lambda text: text.replace('PORT', str(PORT))\n"
    before += "import json, sys, io\nsys.stdin = io.StringIO(fill(sys.stdin.read()))\n"
    tests = ["assert reach() == []", "assert itself() == b'x\\n'"]
    assert judge_in(place, [code], tests, before) == ([1.0], [])


SPOILERS = {  # before: None for the first two as an ordinary user with namespaces, which leaves the row out
    "the first process interrupted": "import os\nos.kill(1, 2)",
    "its limits lowered": "import resource\nfor kind in range(16):\n"
    "    try: resource.prlimit(1, kind, (1, 1))\n    except (OSError, ValueError): pass",
    "every signal to the parent": "import os, signal\nfor number in signal.valid_signals():\n"
    "    try: os.kill(os.getppid(), number)\n    except OSError: pass",
    "priorities": "import os\ntry: os.setpriority(2, 0, 19)\nexcept OSError: pass",
}


@pytest.mark.parametrize("place", PLACES, ids=" with ".join)
def test_a_program_that_attacks_its_keeper_has_failed(place):
    codes = [f"{code}\nraise SystemExit(1)" for code in SPOILERS.values()]
    values, errors = judge_in(place, codes, PAIRS)
    assert (values, errors) == ([0.0] * len(codes), [])
    codes = [f"try:\n    exec({code!r})\nexcept OSError: pass\n{ADDS}" for code in SPOILERS.values()]
    assert judge_in(place, codes, PAIRS) == ([1.0] * len(codes), [])  # none of it has an effect


FILLS = {  # before: 1.0 at 128 MiB, with 1.9 GB of the machine's memory taken
    "memfd": "import os\nf = os.memfd_create('x')\nfor _ in range(100): os.write(f, bytes(4 << 20))",
    "System V": """
import ctypes
libc = ctypes.CDLL(None); libc.shmat.restype = ctypes.c_void_p
for _ in range(20):
    place = libc.shmat(libc.shmget(0, 16 << 20, 0o1600), None, 0)
    assert place not in (None, 2**64 - 1)
    ctypes.memset(place, 1, 16 << 20); libc.shmdt(ctypes.c_void_p(place))
""",
    "maps that nobody has read": """
import mmap, os
for _ in range(20):
    shared = mmap.mmap(-1, 16 << 20); shared.write(bytes(16 << 20))
    if os.fork() == 0:
        import time; time.sleep(60)
    shared.close()
""",
    "/dev/shm": "for n in range(20): open(f'/dev/shm/grpo{n}', 'wb').write(bytes(16 << 20))",
    "/tmp": "for n in range(20): open(f'/tmp/grpo{n}', 'wb').write(bytes(16 << 20))",
}


@pytest.mark.parametrize("place", PLACES, ids=" with ".join)
def test_memory_that_no_process_holds(place):
    if not filters.available():
        pytest.skip("needs system call filters and Landlock")
    values, errors = judge_in(place, [f"{code}\n{ADDS}" for code in FILLS.values()], PAIRS, memory_mb=128)
    assert (values, errors) == ([0.0] * len(FILLS), [])


def test_auto_is_refused_without_walls(monkeypatch):
    """Before: a warning, and an ordinary user's programs read and wrote whatever was the user's."""

    def refused(isolation):
        raise SandboxError("unshare: Operation not permitted")

    sandbox._choose.cache_clear()
    monkeypatch.setattr(sandbox, "_check", refused)
    monkeypatch.setattr(filters, "available", lambda: False)
    with pytest.raises(UserError, match=r"no namespaces here .*set isolation: limits"):
        code_reward([], [])
    sandbox._choose.cache_clear()
    monkeypatch.undo()
    assert code_reward([], [], isolation="limits") == []
