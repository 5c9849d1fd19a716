"""A verdict depends on what the program does, not on what else the machine does; after each what happened before."""

import os
import subprocess
import sys

import pytest

from rewards.code.reward import code_reward
from rewards.code.sandbox import run as sandbox
from support.sandboxes import PLACES, judge_in

pytestmark = pytest.mark.usefixtures("only_sandbox")

PAIRS = [{"input": "1 2", "output": "3"}]
WORKS = """
import time
end = time.process_time() + {seconds}
while time.process_time() < end: pass
a, b = map(int, input().split())
print(a + b)
"""
BUSY = """
import os
for _ in range(61):
    try:
        if os.fork() == 0: break
    except OSError: pass
while True: pass
"""
CHURN = """
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody hears of what the children computed
while True:
    if os.fork() == 0:
        for _ in range({loops}): pass
        os._exit(0)
    try: os.wait()
    except OSError: pass
"""


def judge(codes, tests, **options):
    errors = {}
    options["log_error"] = errors.__setitem__
    return code_reward([f"```python\n{code}\n```" for code in codes], [tests] * len(codes), **options), errors


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES, ids=" with ".join)
def test_another_program_keeps_the_machine_busy(place):
    """Before: [0.0, 0.0, 0.0, 0.0]: the right ones ran out of wall time, in 3 of 3 tries."""
    codes = [BUSY, *[WORKS.format(seconds=0.9)] * 3]
    assert judge_in(place, codes, PAIRS, timeout=1.5) == ([0.0, 1.0, 1.0, 1.0], [])


@pytest.mark.slow
def test_the_machine_is_busy_with_something_else(isolation):
    """Before: 0.0."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(10 * (os.cpu_count() or 1))]
    try:
        assert judge([WORKS.format(seconds=1.0)], PAIRS, timeout=1.5, isolation=isolation) == ([1.0], {})
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_each_test_has_the_time(isolation):
    """Before: 0.0 for many tests each of which takes a quarter of it, computed or slept."""
    asserts = ["assert add(1, 2) == 3"] * 5
    slow = "import time\ndef add(a, b):\n    end = time.process_time() + 0.1\n"
    slow += "    while time.process_time() < end: pass\n"
    codes = [slow + "    return a + b", slow.replace("process_time", "monotonic") + "    return a + b"]
    codes.append("import time\ndef add(a, b):\n    time.sleep(0.1)\n    return a + b")
    assert judge(codes, asserts, timeout=0.4, isolation=isolation) == ([1.0, 1.0, 1.0], {})
    assert judge([WORKS.format(seconds=0.1)], PAIRS * 5, timeout=0.4, isolation=isolation) == ([1.0], {})


@pytest.mark.slow
def test_a_hundred_tests_of_a_tenth_of_a_second(isolation):
    """Before: 0.0, with the usual 6 seconds."""
    assert judge([WORKS.format(seconds=0.1)], PAIRS * 100, isolation=isolation) == ([1.0], {})


TOO_LONG = {  # before: as now
    "computes": "while True: pass",
    "sleeps": "import time\ntime.sleep(600)",
    "sleeps again and again": "import time\nwhile True: time.sleep(0.01)",
    "waits for itself": "import threading\na = threading.Lock()\na.acquire()\na.acquire()",
    "stops itself": "import os\nos.kill(os.getpid(), 19)",
    "a child computes": "import os\nif os.fork() == 0:\n    while True: pass\nos.wait()",
    "a thread computes": "import threading\ndef loop():\n    while True: pass\n"
    "thread = threading.Thread(target=loop)\nthread.start()\nthread.join()",
    "waits for a child as vfork does": "import ctypes\nif ctypes.CDLL(None).vfork() == 0: ctypes.CDLL(None).pause()",
    "waits for input": "import os\nr, w = os.pipe()\nos.read(r, 1)",
}


@pytest.mark.slow
@pytest.mark.parametrize("tests", [PAIRS, ["assert add(1, 2) == 3"]], ids=["script", "call"])
def test_what_takes_too_long_has_failed(tests, isolation):
    """It is never left out (None), which a policy could learn: neither asleep nor at work."""
    codes = [f"{code}\ndef add(a, b): return 3" for code in TOO_LONG.values()]
    assert judge(codes, tests, timeout=0.4, isolation=isolation) == ([0.0] * len(codes), {})


def test_an_answer_without_end_has_failed(isolation):
    """The tester's own time counts, too: an iterator for ever, a set whose members all collide."""
    for_ever = "def add(a, b):\n    import itertools\n    return itertools.count()"
    collide = "def add(a, b): return {n * (2**61 - 1) for n in range(30000)}"
    tests = ["assert sum(add(1, 2)) == 3"]
    assert judge([for_ever, collide], tests, timeout=0.5, isolation=isolation) == ([0.0, 0.0], {})


@pytest.mark.slow
def test_processor_time_that_nobody_is_told_of():
    """Children whose end their parent ignores are in no account."""
    if sandbox.choose("auto") != "namespaces":
        pytest.skip("only inside of namespaces")
    codes = [CHURN.format(loops=loops) for loops in (1000, 200_000, 2_000_000)]
    assert judge(codes, PAIRS, timeout=0.5, isolation="namespaces") == ([0.0] * 3, {})


def test_a_starved_program_has_no_verdict(monkeypatch, isolation):
    """What the clock alone cuts is None, with the reason. Before: 0.0."""
    monkeypatch.setattr(sandbox, "START_SECONDS", 0.2)
    monkeypatch.setattr(sandbox, "_FAR", 0.1)
    values, errors = judge(["while True: pass"], PAIRS, timeout=5.0, isolation=isolation)
    assert values == [None]
    assert errors[0].endswith("the machine is too busy")


def test_a_full_folder(isolation):
    """Before, without namespaces: 1.0, with the machine's /tmp as full as the program likes."""
    big = "for n in range(12): open(f'f{n}', 'wb').write(bytes(15 << 20))\nimport time\ntime.sleep(0.4)\nprint(3)"
    many = "for n in range(9000): open(f'f{n}', 'w')\nimport time\ntime.sleep(0.4)\nprint(3)"
    assert judge([big, many], PAIRS, timeout=5.0, isolation=isolation) == ([0.0, 0.0], {})


def test_what_goes_wrong_in_the_keeper_is_no_verdict(monkeypatch, isolation):
    """It is ours, and says so."""
    fails = (
        "import time, sandbox.watch as w; w.Watch.__call__ = lambda self: time.monotonic() > self.last + 0.2 and 1 / 0"
    )
    boot = sandbox._BOOT.replace("main()", f"\n{fails}\nmain()")
    monkeypatch.setattr(sandbox, "_COMMAND", [boot if part == sandbox._BOOT else part for part in sandbox._COMMAND])
    for tests in (PAIRS, ["assert add(1, 2) == 3"]):
        values, errors = judge(["import time\ntime.sleep(60)\ndef add(a, b): return 4"], tests, isolation=isolation)
        assert (values, errors) == ([None], {0: "sandbox: ZeroDivisionError: division by zero"})
