"""Tests in all the forms that data sets have them, and what a program may do to its streams."""

import base64
import json
import pickle
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo.errors import UserError
from rewards.code.reward import code_reward
from rewards.code.sandbox.compare import same, same_text
from rewards.code.sets import apps_row, code_contests_row, livecodebench_row
from rewards.code.tests import read_tests

pytestmark = pytest.mark.usefixtures("only_sandbox")
ECHO = "print(int(input()) + 1)"
SOLUTION = "class Solution:\n    def addOne(self, nums: List[int]) -> List[int]:\n        return [x + 1 for x in nums]"


def score(code, tests, **options):
    errors = {}
    value = code_reward([f"```python\n{code}\n```"], [tests], log_error=errors.__setitem__, **options)[0]
    return errors[0] if errors else value


@pytest.mark.parametrize("code", [
    "print(int(input()) + 1); exit()", "n = int(input())\nprint(n + 1)\nquit()", "print(int(input()) + 1)\nexit(0)",
    "import sys, io\nsys.stdin = io.TextIOWrapper(sys.stdin.buffer)\n" + ECHO,
    "import sys, io\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, write_through=False)\n" + ECHO,
    "import sys\nsys.__stdout__.write(str(int(sys.__stdin__.readline()) + 1))",
    "print(int(open('/dev/stdin').read()) + 1)", "print(int(open('/proc/self/fd/0').read()) + 1)",
    "import os\nout = os.fdopen(1, 'w')\nout.write(str(int(input()) + 1))",
    "out = open('/dev/stdout', 'w')\nout.write(str(int(input()) + 1))",
    "import io, os\ndata = io.BytesIO(os.read(0, 99))\ninput = lambda: data.readline().decode()\n" + ECHO,
    "import sys\ninput = iter(sys.stdin.buffer.read().decode().split()).__next__\n" + ECHO,
    "copyright\n" + ECHO, "import sys\nsys.stdin.close()\nprint(4)",
])  # fmt: skip
def test_streams_and_exits(code):
    assert score(code, [{"input": "3\n", "output": "4\n"}]) == 1.0


@pytest.mark.parametrize("code", ["print(4); exit(1)", "print(4)\nquit('why')", "exit()\nprint(4)"])
def test_an_exit_with_an_error_or_too_early_fails(code):
    assert score(code, [{"input": "3\n", "output": "4\n"}]) == 0.0


def test_long_integers():
    digits = "9" * 6000
    assert score("print(int(input()) + 1)", [{"input": digits, "output": "1" + "0" * 6000}]) == 1.0
    assert score("def f():\n    return 10**5000", ["assert str(f())[0] == '1'", "assert f() == 10**5000"]) == 1.0
    assert score(f"def f(x): return x + 1\n{'#'}", {"fn_name": "f", "inputs": [[9]], "outputs": [10]}) == 1.0
    tests = f'{{"fn_name": "f", "inputs": [[{digits}]], "outputs": [{digits}]}}'
    assert score("def f(x): return x", tests) == 1.0
    assert score("def f(x): return x + 1", tests) == 0.0


def test_output_as_long_as_what_is_expected():
    """Six MiB, when so much is wanted; a program that writes without end is cut."""
    line = "0123456789" * 100 + "\n"
    tests = [{"input": "", "output": line * 6000}]
    assert score(f"for _ in range(6000): print({line.strip()!r})", tests) == 1.0
    assert score(f"for _ in range(6001): print({line.strip()!r})", tests) == 0.0
    assert score("while True: print('0' * 1000)", [{"input": "", "output": "0"}]) == 0.0


CALLS = [
    {"fn_name": "addOne", "inputs": [[[1, 2]]], "outputs": [[2, 3]]},
    {"fn_name": "addOne", "inputs": [[[1, 2]]], "outputs": [[[2, 3]]]},
    json.dumps({"fn_name": "addOne", "inputs": [[[1, 2]], [[3]]], "outputs": [[2, 3], [4]]}),
    [{"fn_name": "addOne", "input": "[[1,2]]", "output": "[[2,3]]", "type": "function_call"}],
    [{"fn_name": "addOne", "input": "[[1,2]]", "output": "[2,3]"}],
    [{"func_name": "addOne", "input": "[1,2]", "output": "[2,3]", "testtype": "functional"}],
    [{"input": "[1,2]", "output": "[2,3]", "testtype": "functional", "metadata": {"func_name": "addOne"}}],
    [{"fn_name": "addOne", "input": f"[{n}]", "output": f"[{n + 1}]", "testtype": "functional"} for n in range(3)],
]


@pytest.mark.parametrize("tests", CALLS)
def test_calls(tests):
    plain = "def addOne(nums):\n    return tuple(n + 1 for n in nums)"
    assert score(SOLUTION, tests) == score(plain, tests) == 1.0
    for wrong in (SOLUTION.replace("+ 1", "+ 2"), "def other(nums): return nums", "def addOne(nums): return None",
                  SOLUTION.replace("addOne", "add_one"), "class Solution: pass"):  # fmt: skip
        assert score(wrong, tests) == 0.0
    liar = "class Yes:\n    def __eq__(self, other): return True\ndef addOne(nums): return Yes()"
    assert score(liar, tests) == 0.0
    assert score(liar.replace("Yes()\n", "[Yes()] * 2"), tests) == 0.0


def test_values_of_calls():
    def called(code, args, value, **options):
        tests = [{"fn_name": "f", "input": "\n".join(map(json.dumps, args)), "output": json.dumps(value),
                  "testtype": "functional"}]  # fmt: skip
        return score(code, tests, **options)

    assert called("def f(a, b): return a * b", ["ab", 2], "abab") == 1.0
    assert called("def f(a): return {1: (2, 3)}", [0], {"1": [2, 3]}) == 1.0
    assert called("def f(a): return None", [0], None) == 1.0
    assert called("def f(a): return '5'", [0], 5) == 0.0
    assert called("def f(a): return 5", [0], [5]) == 0.0  # LiveCodeBench wraps nothing
    assert called("def f(a): return 0.1 + 0.2", [0], 0.3) == 0.0
    assert called("def f(a): return 0.1 + 0.2", [0], 0.3, tolerance=1e-9) == 1.0
    assert called("def f(a): return [2, 1, 1]", [0], [1, 2, 1]) == 0.0
    assert called("def f(a): return [2, 1, 1]", [0], [1, 2, 1], unordered=True) == 1.0
    assert called("def f(a): return [2, 2, 1]", [0], [1, 2, 1], unordered=True) == 0.0
    assert called("def f(a): return 2", [0], 2, partial=True) == 1.0


def test_one_reading_of_wrapped_values_for_all():
    tests = {"fn_name": "f", "inputs": [[1], [2]], "outputs": [[1], [2]]}
    assert score("def f(x): return x", tests) == score("def f(x): return [x]", tests) == 1.0
    assert score("def f(x): return [x] if x == 1 else x", tests) == 0.0


@pytest.mark.parametrize(("tests", "message"), [
    ([{"input": "1", "output": "2", "testtype": "functional"}], "names no function"),
    ([{"input": "1", "output": "2", "type": "interactive"}], "'interactive' is unknown"),
    ([{"input": "1", "output": "2"}, {"input": "1", "output": "2", "fn_name": "f"}], "all call the same function"),
    ({"fn_name": "f", "inputs": ["x"], "outputs": ["2"]}, "not JSON"),
    ({"fn_name": "f", "inputs": [3], "outputs": [2]}, "the arguments of a call are a list"),
    ({"inputs": ["1"], "outputs": ["2"], "checker": "x = 1"}, "defines check"),
    ({"fn_name": "f", "inputs": [[1]], "outputs": [2], "checker": "def check(): 0"}, "judges outputs, not calls"),
])  # fmt: skip
def test_forms_that_cannot_be_run(tests, message):
    assert message in score(ECHO, tests)


def test_a_checker_says_which_outputs_are_right():
    checker = """
def check(input, output, expected):
    n, (a, b) = int(input), map(int, output.split())
    return a + b == n and a * b == int(expected)"""
    tests = {"inputs": ["5", "9"], "outputs": ["6", "20"], "checker": checker}
    factor = "n = int(input())\na, b = (2, 3) if n == 5 else (5, 4)\nprint(a, b)"
    assert score(factor, tests) == score(factor.replace("(a, b)", "(b, a)"), tests) == 1.0
    assert score(factor.replace("(2, 3)", "(1, 4)"), tests) == 0.0
    assert score(factor.replace("(2, 3)", "(1, 4)"), tests, partial=True) == 0.5
    assert score("print('x')", tests) == 0.0  # on which the checker fails
    assert score(factor + "\nexit(1)", tests) == 0.0
    assert "NameError" in score(factor, tests | {"checker": "def check(*a): return undefined"})


def test_outputs_nearly_and_in_any_order():
    text, near = "1.0 yes\n2.5\n", "1.0000001 yes\n2.50"
    assert not same_text(near, text)
    assert same_text(near, text, 1e-6)
    for wrong in ("1.1 yes\n2.5", "1.0 no\n2.5", "1.0 yes", "1.0 yes 3\n2.5", "nan yes\n2.5", "1_0 yes\n2.5"):
        assert not same_text(wrong, text, 1e-6)
    assert not same_text("2.5\n1.0 yes", text)
    assert same_text("2.5\n1.0 yes", text, unordered=True)
    assert same_text("2.50\n1.0000001 yes", text, 1e-6, unordered=True)
    assert not same_text("2.5\n2.5\n1.0 yes", text, unordered=True)
    tests = [{"input": "", "output": "0.3\n1\n"}]
    assert score("print(0.1 + 0.2)\nprint(1)", tests) == 0.0
    assert score("print(1)\nprint(0.1 + 0.2)", tests, tolerance=1e-9, unordered=True) == 1.0
    for options in ({"tolerance": 0}, {"tolerance": 2}, {"tolerance": True}, {"unordered": 1}):
        with pytest.raises(UserError, match=r"reward 'code': (tolerance|unordered) is"):
            score(ECHO, tests, **options)


numbers = st.lists(st.integers(-50, 50) | st.floats(-50, 50).map(lambda x: round(x, 3)), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(numbers, st.randoms(use_true_random=False), st.integers(0, 5))
def test_what_tolerance_and_order_allow(values, random, place):
    """Any order and any small change is right; one number that differs by more, or one too many, is wrong."""
    shuffled = random.sample(values, len(values))
    nudged = [value + random.uniform(-1e-9, 1e-9) for value in values]
    wrong = [*values]
    wrong[place % len(values)] += 0.5
    lines, other = ("\n".join(map(str, one)) for one in (values, shuffled))
    assert same_text(other, lines, unordered=True)
    assert same(shuffled, values, None, True)
    assert same(nudged, values, 1e-6, False)
    assert same_text("\n".join(map(repr, nudged)), lines, 1e-6)
    for unordered in (False, True):
        assert not same(wrong, values, 1e-6, unordered)
        assert not same_text("\n".join(map(str, wrong)), lines, 1e-6, unordered)
        assert not same([*values, 1], values, 1e-6, unordered)


def test_rows_of_known_sets():
    apps = apps_row({"question": "Add.", "starter_code": "def f(a):", "input_output":
                     json.dumps({"fn_name": "f", "inputs": [[1]], "outputs": [[2]]})})  # fmt: skip
    assert "def f(a):" in apps["prompt"]
    assert score("def f(a): return a + 1", apps["tests"]) == 1.0
    stdin = apps_row({"question": "?", "input_output": {"inputs": [["1", "2"]], "outputs": [["3"]]}})
    assert score("print(int(input()) + int(input()))", stdin["tests"]) == 1.0
    contest = code_contests_row({
        "description": "Add.", "public_tests": {"input": ["1"], "output": ["2"]},
        "private_tests": {"input": ["2"], "output": ["3"]}, "generated_tests": None,
    })  # fmt: skip
    assert len(read_tests(contest["tests"])) == 2
    assert score(ECHO, contest["tests"]) == 1.0
    public = json.dumps([{"input": "[1]\n2", "output": "3", "testtype": "functional"}])
    private = json.dumps([{"input": "[5]\n2", "output": "7", "testtype": "functional"}])
    packed = base64.b64encode(zlib.compress(pickle.dumps(private))).decode()
    for hidden in (packed, private):
        row = livecodebench_row({
            "question_content": "Add.", "starter_code": "class Solution:\n    def go(self, a, b):", "metadata":
            '{"func_name": "go"}', "public_test_cases": public, "private_test_cases": hidden,
        })  # fmt: skip
        assert score("class Solution:\n    def go(self, a, b): return a[0] + b", row["tests"]) == 1.0
        assert score("class Solution:\n    def go(self, a, b): return 3", row["tests"]) == 0.0
    row = livecodebench_row({"question_content": "?", "public_test_cases":
                             '[{"input": "1", "output": "2", "testtype": "stdin"}]', "metadata": "{}"})  # fmt: skip
    assert score(ECHO, row["tests"]) == 1.0
    for packed in (b"cos\nsystem\n(S'true'\ntR.", b"junk"):  # never unpickled
        with pytest.raises((ValueError, zlib.error)):
            livecodebench_row({"question_content": "?", "public_test_cases": "[]", "private_test_cases":
                               base64.b64encode(zlib.compress(packed)).decode()})  # fmt: skip
