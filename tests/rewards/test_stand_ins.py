"""Objects of a program in the tests: what a test may ask of them, and what is never their own word."""

import pytest

from rewards.code.reward import code_reward

pytestmark = pytest.mark.usefixtures("only_sandbox")

VECTOR = """
class V:
    def __init__(self, x): self.x = x
    def __add__(self, other): return V(self.x + other.x)
    def __eq__(self, other): return isinstance(other, V) and self.x == other.x
    def __lt__(self, other): return self.x < other.x
    def __len__(self): return self.x
    def __str__(self): return f"V{self.x}"
    def __neg__(self): return V(-self.x)
    def __getitem__(self, key): return key * 2
    def __hash__(self): return self.x
"""
PASS = [
    ("class A:\n    @staticmethod\n    def s(x): return x + 1\n    @classmethod\n    def c(cls): return 7\n    z = 3",
     ["assert A.s(1) == 2", "assert A.c() == 7", "assert A.z == 3", "assert A().s(1) == 2"]),
    ("def adder(n):\n    return lambda x: x + n", ["assert adder(3)(4) == 7", "f = adder(1)\nassert f(1) == 2"]),
    ("def counter():\n    n = []\n    def step():\n        n.append(1)\n        return len(n)\n    return step",
     ["c = counter()\nc()\nassert c() == 2"]),
    ("from fractions import Fraction\ndef f(): return Fraction(1, 2)",
     ["assert f() == 0.5", "from fractions import Fraction\nassert f() == Fraction(2, 4)",
    "assert f().numerator == 1"]),
    ("from decimal import Decimal\ndef f(): return Decimal('1.10')",
     ["import decimal\nassert f() == decimal.Decimal('1.1')"]),
    ("import datetime\ndef f(): return datetime.date(2020, 1, 2)",
     ["import datetime\nassert f() == datetime.date(2020, 1, 2)", "assert f().year == 2020"]),
    ("import datetime\ndef f(d): return d + datetime.timedelta(days=1)",
     ["from datetime import datetime as D\nassert f(D(2020, 1, 1, 5)) == D(2020, 1, 2, 5)"]),
    ("def f(): return range(3)", ["assert f() == range(3)", "assert list(f()) == [0, 1, 2]"]),
    ("from collections import deque\ndef f(): return deque([1])", ["assert list(f()) == [1]", "assert f()[0] == 1"]),
    ("from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)",
     ["assert f() == (1, 2)", "assert f().y == 2", "assert P(3, 4).x == 3"]),
    ("def f(a): a.sort()", ["a = [3, 1]\nf(a)\nassert a == [1, 3]"]),
    ("def f(d): d['x'] = 1\ndef g(s): s.add(3)",
     ["d = {}\nf(d)\nassert d == {'x': 1}", "s = {1}\ng(s)\nassert s == {1, 3}"]),
    ("class Solution:\n    def dedup(self, a):\n        a[:] = sorted(set(a))\n        return len(a)",
     ["a = [2, 1, 2]\nk = Solution().dedup(a)\nassert k == 2\nassert a[:k] == [1, 2]"]),
    ("class E(ValueError):\n    pass\ndef f(): raise E('no')", [
        "try:\n    f()\n    assert False\nexcept E as e:\n    assert str(e) == 'no'",
        "try:\n    f()\n    assert False\nexcept ValueError:\n    pass",
        "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        with self.assertRaises(E):\n"
        "            f()\n"
        "T('test').debug()",
    ]),
    ("class E(Exception): pass\nclass F(E): pass\ndef f(): raise F()",
     ["try:\n    f()\n    assert 0\nexcept E:\n    pass"]),
    (VECTOR, ["assert V(1) == V(1)", "assert V(1) != V(2)", "assert V(1) < V(2)", "assert (V(1) + V(2)).x == 3",
              "assert V(1) + V(2) == V(3)", "assert len(V(4)) == 4", "assert str(V(4)) == 'V4'",
    "assert (-V(4)).x == -4",
              "assert V(1)[3] == 6", "assert sorted([V(2), V(1)])[0].x == 1", "assert len({V(1), V(1)}) == 1",
              "assert f'{V(1)}' == 'V1'", "assert isinstance(V(1), V)", "assert not isinstance(3, V)",
              "assert type(V(1)).__name__ == 'V'", "assert V(1).x.__class__ == int"]),
    ("class A:\n    def __setitem__(self, k, v): self.d = {k: v}\n    def __enter__(self): return 5\n"
     "    def __exit__(self, *a): self.out = True",
     ["a = A()\na['x'] = 1\nassert a.d == {'x': 1}", "a = A()\nwith a as x:\n    assert x == 5\nassert a.out"]),
    ("class Node:\n    def __init__(self, v): self.val, self.next = v, None\ndef second(n): return n.next",
     ["a = Node(1)\na.next = Node(2)\nassert second(a).val == 2", "assert Node(1).next is None"]),
    ("PRIMES = [2, 3]\nLIMIT = 5", ["assert PRIMES[0] == 2", "assert PRIMES == [2, 3]", "assert LIMIT + 1 == 6"]),
    ("def g():\n    yield 1\n    yield 2", ["x = g()\nassert next(x) == 1\nassert list(x) == [2]"]),
    ("async def f(x): return x + 1", ["import asyncio\nassert asyncio.run(f(1)) == 2"]),
    ("import random\ndef f(): return random.random()",
     ["import random\nrandom.seed(0)\na = f()\nrandom.seed(0)\nassert f() == a"]),
    ("def f(g, x): return g(x)",
     ["assert f(lambda x: x + 1, 1) == 2", "assert f(len, [1]) == 1", "assert f(str, 1) == '1'"]),
    ("def f(g):\n    try:\n        return g()\n    except ZeroDivisionError:\n        return 'caught'",
     ["assert f(lambda: 1 / 0) == 'caught'"]),
    ("def twice(f, x): return f(f(x))\ndef inc(x): return x + 1",
     ["assert twice(inc, 1) == 3", "assert twice(lambda x: inc(x) * 2, 1) == 10"]),
    ("import enum\nclass C(enum.Enum):\n    RED = 1\ndef f(): return C.RED",
     ["assert f() == C.RED", "assert C.RED.value == 1"]),
    ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int",
     ["assert P(1) == P(1)", "assert P(1).x == 1"]),
]  # fmt: skip


def score(code, tests):
    errors = {}
    value = code_reward([f"```python\n{code}\n```"], [tests], log_error=errors.__setitem__)[0]
    return errors[0] if errors else value


@pytest.mark.parametrize(("code", "tests"), PASS)
def test_what_tests_ask_of_objects(code, tests):
    if score(code, tests) != 1.0:  # all in one run; else which
        assert [test for test in tests if score(code, [test]) != 1.0] == []


LIAR = """
class Yes:
    def __init__(self, *a, **k): self.a = self
    def __eq__(self, other): return True
    def __ne__(self, other): return True
    def __bool__(self): return True
    def __getattr__(self, name): return Yes()
    def __call__(self, *a, **k): return True
    def __sub__(self, other): return 0.0
    __rsub__ = __add__ = __radd__ = __mul__ = __mod__ = __truediv__ = __round__ = __abs__ = __sub__
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __hash__(self): return 0
    def __iter__(self): return iter([Yes()])
    def __len__(self): return 1
    def __enter__(self): return Yes()
    def __exit__(self, *a): return True
    def __getitem__(self, key): return Yes()
    def __float__(self): return 0.0
def f(*a, **k): return Yes()
def Find_Max(*a, **k): return Yes()
Sum = Solution = Yes
class E(AssertionError): pass
"""


@pytest.mark.parametrize("test", [
    "assert f(1) == 5", "assert 5 == f(1)", "assert f(1) != 5", "assert abs(f(1) - 5) < 1e-6",
    "assert abs(5 - f(1)) < 1e-6",
    "assert 0 < f(1) < 9", "assert 5 in f(1)", "assert f(1) in [5, 6]", "assert f(1)[0] == 5",
    "assert list(f(1)) == [5]",
    "assert f('a').startswith('b')", "assert f('a').isupper()", "assert f(1) == f(2)", "assert f(1) % 2 == 0",
    "assert round(f(1), 2) == 0.5", "assert f(1).get('x') == 1", "assert {f(1): 1} == {5: 1}", "assert f(1) in {5}",
    "import math\nassert math.isclose(f(1), 5)", "assert sorted(f(1)) == [5]", "assert sum(f(1)) == 5",
    "assert f(1).a == 5",
    "assert Find_Max([1]) == 5", "assert abs(Find_Max(1) - 5) < 1e-6", "assert Solution().go(1) == 5",
    "with f(1):\n    assert False", "with Find_Max(1):\n    assert f(1) == 5", "assert isinstance(f(1), int)",
    "assert set(f(1)) == {5}", "assert tuple(f(1)) == (5,)", "assert f(1) == [5]", "assert [f(1)] == [5]",
    "assert (f(1), 1) == (5, 1)",
    "assert f(1) == float('inf')", "x = [3, 1]\nassert f(x) == sorted(x)",
])  # fmt: skip
def test_an_object_that_says_yes_to_all_passes_nothing(test):
    assert score(LIAR, [test]) == 0.0


@pytest.mark.parametrize("test", ["assert Sum(1, 2) == 3", "assert 5 in Sum(1)", "assert abs(Sum(1) - 3) < 1e-6"])
def test_nor_does_one_of_what_may_be_a_class(test):
    """Its own `==` with a value is no verdict: an honest class could not pass either."""
    assert "its own word" in str(score(LIAR, [test]))


def test_an_emptied_argument_makes_no_expectation():
    """What a test computes from an argument after the call is computed from its own copy."""
    hack = "def f(x):\n    x.clear()\n    return []"
    for test in (
        "x = [3, 1]\nassert f(x) == sorted(x)",
        "x = [3, 1]\nout = f(x)\nassert out == sorted(x)",
        "x = [3, 1]\nassert sorted(x) == f(x)",
        "x = [3, 1]\nout = f(x)\nassert x == sorted(out) or len(x) == 2",
    ):
        assert score(hack, [test]) == (1.0 if "or len" in test else 0.0)  # fmt: skip


@pytest.mark.parametrize("code", [
    "def f(*a): return __import__('decimal').Decimal('1e99999999')", "def f(*a): return 1 << 200_000_000",
    "class R: pass\nR.__module__, R.__qualname__ = 'builtins', 'range'\ndef f(*a): return R()",
    "class R:\n    numerator = property(lambda s: Yes())\n    denominator = 1\n"
    "R.__module__, R.__qualname__ = 'fractions', 'Fraction'\n"
    "class Yes(int):\n    def __eq__(s, o): return True\ndef f(*a): return R()",
    "import collections\nT = collections.namedtuple('T', 'x')\n"
    "T._fields = ('x); import os; (y',)\ndef f(*a): return T(5)",
    "import os\ndef f(*a):\n    os.write(61, b'junk' * 99)\n    return 5",
])  # fmt: skip
def test_forged_values_are_wrong(code):
    assert score(code, ["assert f(1) == 5", "assert int(f(1)) == 5"]) in (0.0,)


def test_tests_nobody_can_pass_say_why():
    for test, why in (
        ("import pytest\nwith pytest.raises(ValueError):\n    f()", "pytest"),
        ("class C: pass\nassert f(C()) == 1", "cannot pass a C"),
        ("assert 1 in A()", "its own word"),
    ):
        holds = "class A:\n    def __contains__(self, x): return True"
        assert why in str(score(f"def f(*a): return 1\n{holds}", [test]))  # fmt: skip
