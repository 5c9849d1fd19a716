"""The code reward: which block is the program, what tests may look like, and what passes."""

import pytest

from grpo.errors import UserError
from grpo.scoring.table import apply_rewards
from rewards import load_reward
from rewards.code.blocks import extract_code
from rewards.code.reward import code_reward
from rewards.code.sandbox.run import SandboxError, choose
from rewards.code.sets import humaneval_row, mbpp_row
from rewards.code.tests import CodeTests, read_tests
from support.real_data import needs_data, rows_of

pytestmark = pytest.mark.usefixtures("only_sandbox")

BOX = "class Box:\n    def put(self, x): self.x = x\n    def get(self): return self.x"
NODE = "class Node:\n    left = None\ndef depth(n): return 1 + depth(n.left) if n else 0"
ADD = "def add(a, b):\n    return a + b"


@pytest.fixture(autouse=True, scope="module")
def _sandbox_works():
    try:
        choose("auto")
    except SandboxError as error:
        pytest.skip(f"no sandbox here: {error}")


def fenced(code):
    return f"```python\n{code}\n```"


def score(code, tests, **options):
    errors = {}
    value = code_reward([fenced(code)], [tests], log_error=errors.__setitem__, **options)[0]
    return errors[0] if errors else value


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\na\n```", "a\n"),
        ("```\na\n```", "a\n"),
        ("```py\r\na\r\n```\r\n", "a\n"),
        ("```Python3 title=x\na\n\n  b\n``` ", "a\n\n  b\n"),
        ("```python\na\n```\nbetter:\n```python\nb\n```", "b\n"),
        ("```python\na\n```\nrun it:\n```bash\nls\n```", "a\n"),
        ("```python\na\n```\nbetter:\n```python\nb", None),  # cut off
        ("```python\na\n```\n```bash\nls", "a\n"),
        ("````python\n```\na\n```\n````", "```\na\n```\n"),
        ("1. this:\n   ```python\n   if a:\n       b\n   ```", "if a:\n    b\n"),
        ("Run this:\n```\na = 1\n```\nComplexity:\n```\nO(1)\n```", "a = 1\n"),
        ("```\nprint(input())\n```\nInput:\n```\n3\n```\nOutput:\n```\n3\n```", "print(input())\n"),
        ("```python\na\n```\nUsage:\n```\nadd(1, 2)\n```", "a\n"),
        ("```python\na\n```\nOutput:\n```\n3", "a\n"),
        ("```{python}\na\n```", "a\n"),
        ("```{.python .x}\na\n```", "a\n"),
        ("```python3.11\na\n```", "a\n"),
        ("~~~py\na\n~~~", "a\n"),
        ("```pycon\n>>> a\n```", None),
        ("```python,x\na\n```", "a\n"),
        ("<answer>```python\na\n```</answer>", "a\n"),
        ("The code: ```python\na\n```", "a\n"),
        ("```python\na = 1\nprint(a)```\nDone.", "a = 1\nprint(a)\n"),
        (
            '```python\ndef f():\n    """\n    ```\n    >>> f()\n    ```\n    """\n```\nDone.',
            'def f():\n    """\n    ```\n    >>> f()\n    ```\n    """\n',
        ),
        ('```python\na = """\n```\nno end', 'a = """\n'),
        ('```python\nprint("```")\n```', 'print("```")\n'),
        ("a", None),
        ("", None),
        ("inline ```python a``` is none", None),
    ],
)
def test_extract(text, code):
    assert extract_code(text) == code


def test_the_block_that_defines_what_the_tests_call():
    text = f"{fenced(ADD)}\nUsage:\n{fenced('print(add(1, 2))')}"
    assert extract_code(text) == "print(add(1, 2))\n"
    assert extract_code(text, {"add"}) == ADD + "\n"
    assert extract_code(text + "\n" + fenced("add = max"), {"add"}) == "add = max\n"  # the last of them
    assert extract_code(text, {"sub"}) == "print(add(1, 2))\n"  # which may be a body
    assert extract_code(text.replace("python", ""), {"add"}) == ADD + "\n"


def test_a_thought_that_never_ends_has_no_program():
    tests = [["assert add(1, 2) == 3"]]
    assert code_reward([f"<think>{fenced(ADD)}"], tests) == [0.0]
    assert code_reward([fenced(ADD)], tests, prefill=["<think>\n"]) == [0.0]
    assert code_reward([fenced(ADD)], tests, prompts=["Q <think>\n"]) == [0.0]
    assert code_reward([f"so</think>{fenced(ADD)}"], tests, prefill=["<think>\n"]) == [1.0]
    assert code_reward([f"<think>{fenced('a')}</think>{fenced(ADD)}"], tests) == [1.0]


def test_extract_is_linear():
    for unit in ("`", "```x", "```python ", " ", '"""\n', "```\n'''\n", '```py\n"""\n```\n', "a```\n", "<answer>", "~"):
        extract_code(unit * 100_000)
        extract_code(unit * 100_000, {"f"})
    assert extract_code("```" * 200_000) is None
    assert extract_code("```\n" * 200_000) == "\n"


@pytest.mark.parametrize(("value", "tests"), [
    (["assert f() == 1"], CodeTests(asserts=("assert f() == 1",))),
    ([{"input": "1", "output": "2"}], CodeTests(inputs=("1",), outputs=("2",))),
    ({"input": ["1"], "output": ["2"]}, CodeTests(inputs=("1",), outputs=("2",))),
    ({"inputs": ["1"], "outputs": ["2"], "asserts": None}, CodeTests(inputs=("1",), outputs=("2",))),
    ('{"asserts": ["assert f()"], "setup": "x = 1"}', CodeTests(asserts=("assert f()",), setup="x = 1")),
    ({"check": "c", "entry_point": "f", "header": "h"}, CodeTests((), (), (), "h", "c", "f", "h")),
])  # fmt: skip
def test_read_tests(value, tests):
    assert read_tests(value) == tests


@pytest.mark.parametrize(("value", "message"), [
    (None, "missing"), ([], "there are none"), ({"asserts": []}, "there are none"),
    ({"inputs": ["1"], "outputs": []}, "equally many"), ({"asserts": "assert f()"}, "list of strings"),
    ({"test_list": ["assert f()"]}, "keys test_list"), (["assert f()", 3], "a list holds either"),
    ("assert f()", "not JSON"), (3, "int is no form"),
    ({"check": 1, "entry_point": "f"}, "check is a string"),
])  # fmt: skip
def test_tests_that_cannot_be_read(value, message):
    assert message in score(ADD, value)


def test_stdin_stdout():
    tests = [{"input": "1 2\n", "output": "3\n"}, {"input": "5 6", "output": "11  \n\n"}]
    program = "print(sum(map(int, input().split())))"
    assert score(program, tests) == 1.0
    assert score(program.replace("sum", "max"), tests) == 0.0
    assert score(program + "\nraise SystemExit(1)", tests) == 0.0
    assert score("import sys\nn = sum(map(int, sys.stdin.read().split()))\nsys.exit(print(n))", tests) == 1.0
    assert score("if __name__ == '__main__':\n    " + program, tests) == 1.0
    assert score("import threading\nthreading.Thread(target=lambda: " + program + ").start()", tests) == 1.0
    assert score("1 / 0", [{"input": "", "output": ""}]) == 0.0  # a program that fails is not paid for saying nothing
    half = "n = sum(map(int, input().split()))\nprint(n if n < 5 else 0)"
    assert score(half, tests) == 0.0
    assert score(half, tests, partial=True) == 0.5


def test_large_input_and_output():
    text = "\n".join(map(str, range(100_000)))
    assert score("import sys\nsys.stdout.write(sys.stdin.read())", [{"input": text, "output": text}]) == 1.0
    assert score("print(1)", [{"input": text, "output": "1"}]) == 1.0  # it need not read


def test_asserts():
    tests = ["assert add(1, 2) == 3", "assert add([1], [2]) == [1, 2]", "assert add('a', 'b') != 'ba'"]
    assert score(ADD, tests) == 1.0
    assert score("def add(a, b):\n    return a + b if a == 1 else None", tests) == 0.0
    assert score("def add(a, b):\n    return a + b if a == 1 else None", tests, partial=True) == pytest.approx(2 / 3)
    assert score("def sub(a, b): return a", tests) == 0.0
    assert score("def add(a, b) return", tests) == 0.0
    assert score("", tests, partial=True) == 0.0
    assert code_reward(["no code"], [tests]) == [0.0]
    assert code_reward([[{"role": "assistant", "content": fenced(ADD)}]], [tests]) == [1.0]


@pytest.mark.parametrize(
    ("code", "test"),
    [
        ("def f(): return 2 ** 20000", "assert f() == 2 ** 20000"),
        ("def f(): return -1e9, 1e999, 1j, b'\\0', '\\ud800'", "assert f() == (-1e9, 1e999, 1j, b'\\0', '\\ud800')"),
        ("def f(): return {(1, 2): {3}, 'a': frozenset([None])}", "assert f() == {(1, 2): {3}, 'a': {None}}"),
        ("import collections\ndef f(): return collections.Counter('aab')", "assert f() == {'a': 2, 'b': 1}"),
        ("import collections\nP = collections.namedtuple('P', 'x y')\ndef f(): return P(1, 2)", "assert f() == (1, 2)"),
        ("import itertools\ndef f(): return itertools.count()", "assert [a for a, _ in zip(f(), 'abc')] == [0, 1, 2]"),
        ("import re\ndef f(s): return re.search('a', s)", "assert f('cat') and not f('dog') and f('x') is None"),
        ("def f(x, kind): return kind(x)", "assert f('3', int) == 3 and f(x='3', kind=str) == '3'"),
        ("def f(): raise KeyError(1)", "try:\n    f()\nexcept KeyError:\n    pass\nelse:\n    assert False"),
        ("def f(): return 0.1 + 0.2", "assert math.isclose(f(), 0.3)"),
        ("def sum(a, b): return a - b", "assert sum(10, 15) == -5"),
        (BOX, "b = Box()\nb.put(3)\nassert b.get() == 3"),
        (NODE, "n = Node()\nn.left = Node()\nassert depth(n) == 2"),
        ("def f(x): print('noise'); x.append(1); return x", "x = [0]\nassert f(x) == [0, 1] and x == [0]"),
    ],
)  # fmt: skip
def test_values_that_pass(code, test):
    assert score(code, [test]) == 1.0


@pytest.mark.parametrize(("code", "test"), [
    ("def f(): return (i for i in [1])", "assert f() == [1]"), ("def f(): return True", "assert f() == 'True'"),
    ("import math\nmath.isclose = lambda *a: True\ndef f(): return 7", "assert math.isclose(f(), 0.3)"),
    ("abs = lambda x: 0\ndef f(): return 7", "assert abs(f() - 1) < 1e-6"),
    ("def f(): raise StopIteration", "assert all(map(lambda x: f() == x, [1, 2]))"),
    ("def f(): raise NameError('x')", "assert f() == 1"), ("def f(): raise SystemExit", "assert f() == 1"),
    ("def f(x): x.clear(); return 0", "x = [1, 2]\nassert f(x) == sum(x)"),
])  # fmt: skip
def test_values_that_fail(code, test):
    assert score(code, [test]) == 0.0


@pytest.mark.parametrize(("test", "message"), [
    ("assert f( ==", "SyntaxError"),
    ("import no_such_module\nassert f() == 1", "no_such_module"),
    ("class C: pass\nassert f(C()) == 1", "cannot pass a C"), ("del x\nassert f() == 1", "NameError"),
])  # fmt: skip
def test_broken_tests_give_no_verdict(test, message):
    assert message in score("def f(*a): return 1", [test])


HEADER = 'import math\n\n\ndef double(x):\n    return 2 * x\n\n\ndef half(x: int) -> float:\n    """Half of x."""\n'
CHECK = """
def check(candidate):
    for i in range(9):
        assert candidate(double(i)) == i
    assert abs(half(3) - 1.5) < 1e-9
"""


@pytest.mark.parametrize(("code", "value"), [
    ("    return x / double(1)", 1.0), ("return x / double(1)", 1.0),  # the body without its indentation
    ("def half(x):\n    return math.floor(x) / 2", 1.0),  # the header's imports are there
    ("from __future__ import annotations\ndef half(x: Any): return x / 2", 1.0), ("half = lambda x: x / 2", 1.0),
    ("    return x", 0.0),
    ("def double(x): return 0\ndef half(x): return 0", 0.0),  # the test's helper is the header's
    ("def check(candidate): pass\ndef half(x): return 0", 0.0),
])  # fmt: skip
def test_check_with_header(code, value):
    assert score(code, {"check": CHECK, "entry_point": "half", "header": HEADER}) == value


def test_options_and_registry():
    reward = load_reward({"fn": "code", "kwargs": {"timeout": 5, "partial": True}})
    tests = [["assert add(1, 2) == 3", "assert add(1, 2) == 4"], None]
    table = apply_rewards([reward], ["", ""], [fenced(ADD)] * 2, [[], []], {"tests": tests})
    assert table.values == {"code": [0.5, None]}
    assert "missing" in table.errors[1, "code"]
    wrong = {"timeout": (0, "5"), "memory_mb": (1, 1.5), "isolation": ("none",), "partial": (1,)}
    for name, value in ((name, value) for name, values in wrong.items() for value in values):
        with pytest.raises(UserError, match=f"reward 'code': {name}"):
            code_reward([fenced(ADD)], [["assert add(1, 2) == 3"]], **{name: value})


def test_rows_of_known_sets():
    row = {"text": "Add.", "code": ADD, "test_list": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"], "task_id": 1}
    mapped = mbpp_row({**row, "test_setup_code": "x = 1"}, shown=1)
    assert "add(1, 2)" in mapped["prompt"]
    assert "add(2, 2)" not in mapped["prompt"]
    assert mapped["tests"]["setup"] == "x = 1"
    assert mbpp_row(row, shown=0)["prompt"] == "Add."
    humaneval = {"prompt": HEADER, "canonical_solution": "    return x / 2\n", "test": CHECK, "entry_point": "half"}
    assert score(humaneval_row(humaneval)["reference"], humaneval_row(humaneval)["tests"]) == 1.0


@needs_data
@pytest.mark.parametrize(("name", "prepare", "tasks"), [
    ("humaneval", humaneval_row, [f"HumanEval/{n}" for n in (0, 32, 33, 38, 53, 56, 129, 151)]),
    ("mbpp", mbpp_row, [1, 126, 367, 533, 596, 601, 927]), ("mbpp_sanitized", mbpp_row, [2, 126, 596, 737, 82]),
])  # fmt: skip
def test_reference_solutions(name, prepare, tasks):
    """A sample with the unusual ones; benchmarks/code_reward.py runs all."""
    rows = [prepare(row) for row in rows_of(f"sets/{name}.jsonl") if row["task_id"] in tasks]
    assert len(rows) >= len(tasks) - 1
    tests = [row["tests"] for row in rows]
    errors = {}
    scores = code_reward([fenced(row["reference"]) for row in rows], tests, log_error=errors.__setitem__)
    assert (scores, errors) == ([1.0] * len(rows), {})
    wrong = code_reward([fenced(row["reference"]) for row in rows[1:] + rows[:1]], tests)
    assert wrong == [0.0] * len(rows)


@pytest.mark.parametrize("test", [
    "def test_add():\n    assert add(1, 2) == {}",
    "from solution import add\n\ndef test_add():\n    assert add(1, 2) == {}",
    "class TestAdd:\n    def test(self):\n        assert add(1, 2) == {}",
    "import unittest\nclass Adding(unittest.TestCase):\n    def setUp(self): self.x = 1\n"
    "    def test_add(self):\n        self.assertEqual(add(self.x, 2), {})",
    "def test_add():\n    assert add(1, 2) == {}\ntest_add()",
])  # fmt: skip
def test_what_pytest_would_collect_is_run(test):
    """A test that only defines something would pass whatever the program is."""
    assert score(ADD, [test.format(3)]) == 1.0
    assert score(ADD, [test.format(4)]) == 0.0


def test_a_test_that_tests_nothing_is_none():
    for tests in ([""], ["# assert add(1, 2) == 3"], ["x = 1"], ["pass"]):
        assert "it tests nothing" in score(ADD, tests)
    assert "defines no check" in score(ADD, {"check": "def test(f): assert f()", "entry_point": "add"})
    assert "takes what pytest would give it" in score(ADD, ["def test_add(tmp_path):\n    assert add(1, 2) == 3"])
