"""Programs for the sandbox's tests: `CHEATS` would pass in a judge that shares their process, `HOSTILE` do harm."""

SLEEP = "61234.25"  # an argument by which a test's own grandchildren are known

CHEATS = {
    "exit": "import sys\nsys.exit(0)",
    "exit in the call": "import sys\ndef add(a, b): sys.exit(0)",
    "_exit": "import os\nos._exit(0)",
    "_exit in the call": "import os\ndef add(a, b): os._exit(0)",
    "no _exit": "import os\nos._exit = lambda *a: None\nraise SystemExit(0)",
    "equality": """
class A:
    __eq__ = __ne__ = __bool__ = __contains__ = lambda *a: True
def add(a, b): return A()
""",
    "int with equality": """
class I(int):
    __eq__ = lambda *a: True
    __hash__ = int.__hash__
def add(a, b): return I(7)
""",
    "builtins": """
import builtins
builtins.AssertionError = type('E', (BaseException,), {})
builtins.all = builtins.bool = lambda *a: True
def add(a, b): return 7
""",
    "frames": """
import sys
f = sys._getframe()
while f:
    f.f_globals['add'] = f.f_globals['passed'] = lambda *a: 3
    f = f.f_back
def add(a, b): return 7
""",
    "fake verdict": """
import os
for fd in range(256):
    try: os.write(fd, b'{"passed": true}\\n' * 5)
    except OSError: pass
print('{"passed": true}')
os._exit(0)
""",
    "stdout replaced": "import sys, io\nsys.stdout = sys.stderr = io.StringIO()\nprint('ok')",
    "reads tests": """
import gc, glob, inspect, os, re, sys
seen = [repr(sys.argv), repr(dict(os.environ)), sys.stdin.read()]
above = open(f'/proc/{os.getppid()}/stat').read().rpartition(')')[2].split()[1] if os.path.exists('/proc/self') else 1
near = [path for pid in ('self', os.getppid(), above) for path in glob.glob(f'/proc/{pid}/fd/*')]
for path in near + glob.glob('/proc/*/cmdline') + glob.glob('/proc/*/environ') + glob.glob('*'):
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        seen.append(os.pread(fd, 10**6, 0).decode('latin1'))
    except OSError: pass
seen += [repr(frame.frame.f_locals) for frame in inspect.stack()]
seen += [repr(item) for item in gc.get_objects() if isinstance(item, (dict, list, tuple))]
def add(a, b):
    pattern = re.compile(re.escape('add(%r, %r) ' % (a, b)) + '== (-?[0-9]+)')  # no literal of it stands here
    return next((int(found[1]) for text in seen for found in [pattern.search(text)] if found), None)
""",
}

HOSTILE = {
    "endless loop": "while True: pass",
    "loop that catches": """
def add(a, b):
    while True:
        try:
            while True: pass
        except BaseException: pass
""",
    "sleep": "import time\ntime.sleep(10**6)",
    "stopped": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "10 GB": "data = bytearray(10 << 30)\ndef add(a, b): return a + b",
    "10 GB in pieces": "data = []\nwhile True: data.append(bytearray(1 << 20))",
    "infinite output": "while True: print('x' * 100000)",
    "long answer": "def add(a, b):\n    return [0] * 10**7",
    "deep answer": "def add(a, b):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
    "grandchild": f"""
import subprocess
subprocess.Popen(['sleep', '{SLEEP}'], start_new_session=True)
def add(a, b): return 0
""",
    "double fork": f"""
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 256)
        os.execlp('sleep', 'sleep', '{SLEEP}')
    os._exit(0)
os.wait()
def add(a, b): return 0
""",
    "late daemon": """
import os, time
if os.fork() == 0:
    time.sleep(0.5)
    while True:
        for fd in range(256):
            try: os.write(fd, b'3' * 1000)
            except OSError: pass
os._exit(0)
""",
    "deep recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef add(a, b): return add(a, b)",
    "null bytes": "\0",
    "deep source": "(" * 10**5,
}

FORK_BOMB = """
import os
while True:
    try: os.fork()
    except OSError: pass
"""

# Never to be run outside of a process namespace: there it would end everything of the user. It looks for itself too.
KILLS_ALL = """
import os, signal
assert os.getppid() == 1 and os.getpid() < 10, 'not in a process namespace of its own'
for pid in (1, -1):
    try: os.kill(pid, signal.SIGKILL)
    except OSError: pass
while True: pass
"""

MUCH_MEMORY = """
import os, time
done, say = os.pipe()
for _ in range(6):
    if os.fork() == 0:
        data = bytearray(b'x') * (60 << 20)
        os.write(say, b'1')
        time.sleep(600)
for _ in range(6):
    os.read(done, 1)
time.sleep(1)
def add(a, b): return a + b
"""
