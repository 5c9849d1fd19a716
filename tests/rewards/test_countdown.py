"""The Countdown game's checker."""

import itertools
from fractions import Fraction

import pytest

from grpo.errors import UserError
from rewards.countdown import countdown_reward, countdown_row, find_expression, solves
from support.real_data import needs_data, rows_of


@pytest.mark.parametrize(("expression", "expected"), [
    ("(6 - 2) * 5 + 4", True), ("(6 − 2) × 5 + 4", True), ("4+5*(6-2)", True), ("(6 - 2) * 5 + 4 = 24", True),
    ("(6 - 2) * 5 + 4 = 25", False), ("24 = (6 - 2) * 5 + 4", False), ("(6 - 2) * 5 + 4 = 24 = 24", False),
    ("-2 * 5 + 6 * 5 + 4", False),  # 5 twice
    ("4 - -5 * (6 - 2)", True), ("$(6 - 2) \\times 5 + 4$.", True), (r"\left(6 - 2\right) \cdot 5 + 4", True),
    (r"\(4 \div \frac{2}{6} + 5\)", False),  # 17
    ("(6-2)*5", False), ("24", False), ("", False), ("=24", False), ("(6 - 2) * 5 + 4 * 1", False),
    ("(6 - 2) * 5 + 0 + 4", False), ("(6 - 2) * 5 + 4.0", False), ("(6 - 2) * 05 + 4", False), ("6 - 2 5 + 4", False),
    ("(6 - 2) ** 5 // 4", False), ("(6 - 2)(5 + 4)", False), ("(6 - 2) * 5 + 4; 1", False),
    ("(6 - 2) * 5 + 4 # so", False), ("[6 - 2] * 5 + 4", False), ("6 / (5 - 4 - 1 / 2)", False),
    ("max(6 - 2, 1) * 5 + 4", False), ("(６ - 2) * 5 + 4", False), ("(6 - 2) * 5 + 4²", False),
])  # fmt: skip
def test_by_the_rules(expression, expected):
    assert solves(expression, [2, 4, 5, 6], 24) is expected
    assert countdown_reward([f"<answer>{expression}</answer>"], [24], [[2, 4, 5, 6]]) == [float(expected)]


def test_fractions_are_exact():
    assert solves("8 / (3 - 8 / 3)", [3, 3, 8, 8], 24)
    assert not solves("1 / 3", [1, 3], 0)
    assert solves(r"\frac{\frac{8}{2}}{4}", [2, 4, 8], 1)


def test_every_number_or_some_of_them():
    assert not solves("6 * 4", [2, 4, 6], 24)
    assert solves("6 * 4", [2, 4, 6], 24, use_all=False)
    assert not solves("6 + 6 + 6 + 6", [2, 4, 6], 24, use_all=False)
    assert solves("6 + 6", [6, 6], 12)
    text = "<answer>6 * 4</answer>"
    assert countdown_reward([text], [24], [[2, 4, 6]], use_all=False) == [1.0]


@pytest.mark.parametrize(("text", "expression"), [
    ("<answer>1+2</answer>", "1+2"),
    ("<think>1+1 <answer>9</answer></think> <answer>1+2</answer> ok", "1+2"),
    ("<answer>9</answer> no: <answer>1+2</answer>", "1+2"), (r"<answer>\boxed{1+2}</answer>", "1+2"),
    (r"so \boxed{9}, no, \boxed{1+2}", "1+2"), ("1+2", None), ("1+2</answer>", None), ("<answer>1+2", None),
    (r"<think>\boxed{1+2}</think> done", None),
])  # fmt: skip
def test_where_the_expression_stands(text, expression):
    assert find_expression(text) == expression
    assert countdown_reward([[{"role": "assistant", "content": text}]], [3], [[1, 2]]) == [
        float(expression is not None)
    ]


@pytest.mark.parametrize("expression", [
    "(" * 499, "(" * 230 + "1" + ")" * 230, "-" * 499 + "1", "1" * 499, "9**9**9**9", r"\frac{" * 80,
    "1+" * 249 + "1",
])  # fmt: skip
def test_nothing_is_too_deep(expression):
    assert not solves(expression, [1, 1], 7)
    assert not solves(expression, [9] * 4, 7)


def test_what_is_long_is_refused():
    assert solves("+".join("1" * 200), [1] * 200, 200)
    assert not solves("+".join("1" * 300), [1] * 300, 300)


def test_the_columns():
    text = "<answer>1 + 2</answer>"
    assert countdown_reward([text], [3], nums=[[2, 1]]) == [1.0]
    assert countdown_reward([text], ["3"], ["1, 2"]) == [1.0]
    assert countdown_reward([text], [3.0], [["1", 2.0]]) == [1.0]
    with pytest.raises(UserError, match="no column 'numbers'"):
        countdown_reward([text], [3])


@pytest.mark.parametrize("numbers", [None, [], "", [1.5, 2], [-1, 2], ["x"], [float("inf")], 12, [None]])
def test_a_row_that_is_no_game_is_not_judged(numbers):
    errors, rows = {}, [[1, 2], numbers]
    assert countdown_reward(["<answer>1+2</answer>"] * 2, [3, 3], rows, log_error=errors.__setitem__) == [1.0, None]
    assert errors.keys() == {1}


@pytest.mark.parametrize("target", [None, "", 1.5, "x", [3]])
def test_a_row_without_a_target_is_not_judged(target):
    assert countdown_reward(["<answer>1+2</answer>"], [target], [[1, 2]]) == [None]


def test_a_row_of_the_data():
    row = countdown_row({"input": "30,100,93", "output": "23"})
    assert (row["numbers"], row["target"]) == ([30, 100, 93], 23)
    assert "Make 23 from the numbers 30, 100, 93" in row["question"]
    assert countdown_row({"nums": [1, 2], "target": 3})["numbers"] == [1, 2]
    with pytest.raises(UserError, match="a row needs numbers"):
        countdown_row({"input": "1,2"})


@needs_data
def test_the_rows_of_d1():
    """Solved by trying everything: the solution is right, and wrong for another target."""
    rows = [countdown_row(row) for row in rows_of("sets/countdown_cd3_test.jsonl")]
    assert len(rows) == 256
    for row in rows[:64]:
        solution = _solve(row["numbers"], row["target"])
        text = f"<think>trying</think><answer>{solution}</answer>"
        assert countdown_reward([text] * 2, [row["target"], row["target"] + 1], [row["numbers"]] * 2) == [1.0, 0.0]


def _solve(numbers: list[int], target: int) -> str:
    for a, b, c in itertools.permutations(numbers):
        for first, second in itertools.product("+-*/", repeat=2):
            for text in (f"({a}{first}{b}){second}{c}", f"{a}{first}({b}{second}{c})"):
                if _exact(text) == target:
                    return text
    raise AssertionError(f"{numbers} do not make {target}")


def _exact(text: str) -> Fraction | None:
    """By its own rule: the test may evaluate what it wrote itself."""
    digits = "".join(f"Fraction({part})" if part.isdigit() else part for part in _parts(text))
    try:
        return eval(digits, {"Fraction": Fraction})  # noqa: S307
    except ZeroDivisionError:
        return None


def _parts(text: str) -> list[str]:
    return ["".join(group) for _, group in itertools.groupby(text, lambda c: "0" if c.isdigit() else f"{c}")]
