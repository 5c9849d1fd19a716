"""The sandbox: whatever a program does, it is contained, does not pass, and nothing of it is left."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rewards.code.reward import code_reward
from rewards.code.sandbox import namespaces
from rewards.code.sandbox import run as sandbox
from rewards.code.sandbox.run import SandboxError
from support.hostile_programs import CHEATS, FORK_BOMB, HOSTILE, KILLS_ALL, MUCH_MEMORY, SLEEP
from support.real_data import needs_data, rows_of
from support.servers import Reply, listening

TESTS = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]
PAIRS = [{"input": "1 2", "output": "3"}, {"input": "5 6", "output": "11"}]
LIMIT = 30.0  # seconds that no row may take, also on a busy machine; most take a tenth of one


@pytest.fixture(autouse=True)
def nothing_is_left(only_sandbox):
    yield
    assert leftovers() == []


def leftovers():
    """Command lines of processes that a sandbox has started; all forks of ours have the guard's."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes()
        except OSError:
            continue
        if b"sandbox.inside" in text or SLEEP.encode() in text:
            found.append(text)
    return found


def judge(code, tests, isolation, **options):
    start = time.monotonic()
    errors = {}
    options |= {"isolation": isolation, "log_error": errors.__setitem__}
    (value,) = code_reward([f"```python\n{code}\n```"], [tests], **options)
    assert time.monotonic() - start < LIMIT
    assert errors == {}
    return value


@pytest.mark.parametrize("name", CHEATS)
def test_passing_without_the_right_values(name, isolation):
    assert judge(CHEATS[name], TESTS, isolation, partial=True) == 0.0


@pytest.mark.parametrize("name", ["exit", "_exit", "fake verdict", "stdout replaced"])
def test_passing_without_the_right_output(name, isolation):
    assert judge(CHEATS[name], PAIRS, isolation, partial=True) == 0.0


AS_SCRIPTS = ["endless loop", "10 GB", "infinite output", "double fork", "late daemon"]


@pytest.mark.parametrize(
    ("name", "tests"), [(name, TESTS) for name in HOSTILE] + [(name, PAIRS) for name in AS_SCRIPTS]
)
def test_hostile_programs_are_contained(name, tests, isolation):
    assert judge(HOSTILE[name], tests, isolation, timeout=0.3) == 0.0


@pytest.mark.parametrize(
    ("code", "tests"), [(FORK_BOMB, TESTS), (FORK_BOMB, PAIRS), (KILLS_ALL, TESTS)], ids=["forks", "script", "signals"]
)
def test_what_only_a_process_namespace_contains(code, tests):
    """Elsewhere it reaches whatever the user runs."""
    if sandbox.choose("auto") != "namespaces":
        pytest.skip("only inside of namespaces")
    assert judge(code, tests, "namespaces", timeout=1) == 0.0


def test_total_memory_of_many_processes(isolation):
    assert judge(MUCH_MEMORY, TESTS, isolation, timeout=25, memory_mb=256) == 0.0
    assert judge(MUCH_MEMORY, TESTS, isolation, timeout=25, memory_mb=1024) == 1.0


def test_secrets_of_the_parent(isolation, monkeypatch, tmp_path):
    """Neither its environment nor its memory, and with namespaces none of its files."""
    monkeypatch.setenv("GRPO_TEST_SECRET", "open sesame")
    (tmp_path / "secret").write_text("open sesame")
    (tmp_path / "secret").chmod(0o600)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"S": "open " + "sesame"})
    try:
        code = f"""
import os
found = repr(dict(os.environ))
for path in ['self', {os.getpid()}, {child.pid}, 1]:
    try: found += open(f'/proc/{{path}}/environ').read()
    except OSError: pass
for path in [{str(tmp_path / "secret")!r}]:
    try: found += open(path).read()
    except OSError: pass
try: open('/proc/{os.getpid()}/mem', 'rb'); found += 'open sesame'
except OSError: pass
def add(a, b): return a + b if 'open sesame' in found else None
"""
        if isolation == "limits" and namespaces.spare_ids() is None:
            pytest.skip("without namespaces an ordinary user's program reads what the user may read")
        assert judge(code, TESTS, isolation) == 0.0
    finally:
        child.communicate()


def test_files_outside_cannot_be_written(isolation, tmp_path):
    if isolation == "limits" and namespaces.spare_ids() is None:
        pytest.skip("without namespaces an ordinary user's program writes where the user may write")
    paths = [str(tmp_path / "x"), "/usr/grpo_x", "/grpo_x", str(Path(sys.base_prefix) / "grpo_x")]
    code = f"""
def add(a, b):
    for path in {paths}:
        try: open(path, 'w').write('x'); return a + b
        except OSError: pass
    open('own file', 'w').write('x')  # its own folder it may use
"""
    assert judge(code, TESTS, isolation) == 0.0
    assert not any(os.path.exists(path) for path in paths)


def test_its_own_folder_is_empty_writable_and_gone(isolation):
    code = """
import os
def add(a, b):
    names = os.listdir('.')
    open(f'file{a}', 'w').write('x')
    return os.getcwd(), names
"""
    tests = ["where, names = add(1, 2)\nassert names == [] and where != '/'", "assert add(2, 2)[1] == ['file1']"]
    assert judge(code, tests, isolation) == 1.0
    assert judge("open('big', 'wb').write(bytes(40 << 20))\ndef add(a, b): return a + b", TESTS, isolation) == 0.0


def test_no_network():
    if sandbox.choose("auto") != "namespaces":
        pytest.skip("the network is closed by a namespace")
    with listening(lambda *_: Reply()) as server:
        connect = f"import socket\nsocket.create_connection(('127.0.0.1', {server.port}), 5)\n"
        assert judge(connect + "def add(a, b): return a + b", TESTS, "namespaces") == 0.0


def test_privileges_are_gone(isolation):
    code = """
def add(a, b):
    import ctypes, os
    lines = dict(line.split(':\\t') for line in open('/proc/self/status') if line.startswith(('Cap', 'NoNew')))
    no_power = all(int(lines[name], 16) == 0 for name in ('CapPrm', 'CapEff', 'CapBnd', 'CapAmb'))
    mounted = ctypes.CDLL(None).mount(b'none', b'/', b'tmpfs', 0, None) == 0
    return [no_power or os.getuid() != 0, int(lines['NoNewPrivs']), mounted, os.getuid() == 0]
"""
    assert judge(code, ["assert add(1, 2) == [True, 1, False, False]"], isolation) == 1.0


def test_dead_sandbox_is_no_zero(monkeypatch, isolation):
    """What is not the program's fault gives no score, and says why."""

    def reason(*command, seconds=sandbox.START_SECONDS):
        errors = {}
        with monkeypatch.context() as broken:
            broken.setattr(sandbox, "_COMMAND", command)
            broken.setattr(sandbox, "START_SECONDS", seconds)
            broken.setattr(sandbox, "_FAR", 1)
            completion, options = "```python\ndef add(a, b): return 0\n```", {"timeout": min(seconds, 5.0)}
            options |= {"isolation": isolation, "log_error": errors.__setitem__}
            assert code_reward([completion], [TESTS], **options) == [None]
        return errors[0]

    assert reason(sys.executable, "-c", "raise SystemExit('no room')") == "no room"
    assert "/no/such/python" in reason("/no/such/python")
    start = time.monotonic()
    reason(sys.executable, "-c", "import time; time.sleep(60)", seconds=0.5)
    assert time.monotonic() - start < LIMIT


def test_falls_back_with_one_warning(monkeypatch, caplog):
    """Where the kernel refuses namespaces, "auto" goes on with limits and says so once; "namespaces" gives no score."""
    try:
        sandbox.choose("limits")
    except SandboxError as error:
        pytest.skip(f"limits do not work here: {error}")
    real = sandbox.run

    def refused(program, tests, bounds, isolation, **options):
        if isolation == "namespaces":
            raise SandboxError("unshare: Operation not permitted")
        return real(program, tests, bounds, isolation, **options)

    sandbox._choose.cache_clear()
    sandbox._check.cache_clear()
    monkeypatch.setattr(sandbox, "run", refused)
    try:
        completions = ["```python\ndef add(a, b): return a + b\n```"] * 3
        assert code_reward(completions, [TESTS] * 3) == [1.0] * 3
        assert [record.message.count("Operation not permitted") for record in caplog.records] == [1]
        assert code_reward(completions, [TESTS] * 3, isolation="namespaces") == [None] * 3
    finally:
        sandbox._choose.cache_clear()
        sandbox._check.cache_clear()


def test_many_rows_at_once(isolation):
    rows = 12
    codes = [f"```python\ndef add(a, b): return a + b + {row % 2}\n```" for row in range(rows)]
    assert code_reward(codes, [TESTS] * rows, isolation=isolation) == [1.0, 0.0] * (rows // 2)


def test_dies_with_the_trainer(tmp_path):
    """A trainer that is killed leaves nothing behind."""
    code = "```python\nimport time\ntime.sleep(600)\n```"
    script = f"""
from rewards.code.reward import code_reward
print('up', flush=True)
code_reward([{code!r}], [{TESTS!r}], timeout=600)
"""
    trainer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    trainer.stdout.readline()
    deadline = time.monotonic() + LIMIT
    while not leftovers() and time.monotonic() < deadline:
        time.sleep(0.05)
    trainer.kill()
    trainer.communicate()
    while leftovers() and time.monotonic() < deadline + LIMIT:
        time.sleep(0.05)


@needs_data
def test_adversarial_cases(isolation):
    expected = {"correct": (1.0,), "incorrect": (0.0,), "either": (0.0, 1.0)}
    rows = (row for row in rows_of("cases/adversarial_cases.jsonl") if row["kind"] == "code")
    for row in rows:
        if row.get("dangerous") and isolation != "namespaces":
            continue
        start = time.monotonic()
        timeout = 0.7 if row["expected"] == "incorrect" else 6.0
        value = code_reward([row["completion"]], [row["gold"]["tests"]], isolation=isolation, timeout=timeout)[0]
        assert value in expected[row["expected"]], row["id"]
        assert time.monotonic() - start < row["max_seconds"], row["id"]
