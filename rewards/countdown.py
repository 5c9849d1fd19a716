"""The Countdown game: an expression that makes the target from the given numbers (as in TinyZero).

The expression is parsed, never evaluated as a program: integers, + - * / and parentheses, computed in exact fractions.
It may have `MAX_CHARACTERS` and only the given numbers, each no more often than given, so its value cannot grow large.
"""

from __future__ import annotations

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from grpo.data.golds import last_boxes
from grpo.data.rows import first_present
from grpo.data.said import after_thought
from grpo.errors import UserError
from rewards.turns import turns

MAX_CHARACTERS = 500
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SIGNS = str.maketrans({"×": "*", "⋅": "*", "·": "*", "∗": "*", "÷": "/", "∕": "/", "−": "-", "–": "-", "$": " "})
_LATEX = {r"\times": "*", r"\cdot": "*", r"\div": "/", r"\left": "", r"\right": "", r"\(": "", r"\)": ""}
_LATEX |= {r"\[": "", r"\]": "", r"\,": " ", r"\!": "", r"\;": " ", r"\ ": " "}
_COMMAND = re.compile(r"\\(?:times|cdot|div|left|right)(?![a-z])|\\[()\[\],!; ]")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_ARITHMETIC = re.compile(r"[0-9+\-*/() ]+")


def countdown_reward(
    completions: Sequence[Any],
    target: Sequence[Any],
    numbers: Sequence[Any] | None = None,
    nums: Sequence[Any] | None = None,
    prompts: Sequence[Any] | None = None,
    prefill: Sequence[str | None] | None = None,
    *,
    use_all: bool = True,
    log_error: Callable[[int, str], None] | None = None,
) -> list[float | None]:
    r"""1.0 for an expression with the target's value that uses the numbers by the rules, else 0.0.

    It is read in the last ``<answer>``, or in the last ``\boxed{}`` where there is no such tag, after ``</think>``. A
    final "= 23" is allowed where it says the target.

    Args:
        completions: strings, or lists of messages whose last one is read.
        target: the number to make.
        numbers: the given ones of each row, a list or text such as "30,100,93".
        nums: the same; the name that the TinyZero data has.
        prompts: with `prefill`, whether the template opened the thinking, which has no answer until it ends.
        prefill: likewise.
        use_all: every number exactly once, as TinyZero's checker has it; false: at most once, as on television.
        log_error: given by the scoring layer, takes (row, reason).

    Raises:
        UserError: there is neither a column `numbers` nor `nums`.

    >>> countdown_reward(["<answer>30 + 93 - 100 = 23</answer>", "<answer>23</answer>"], [23, 23], [[30, 100, 93]] * 2)
    [1.0, 0.0]
    """
    columns = numbers if numbers is not None else nums
    if columns is None:
        raise UserError("reward 'countdown': the data has no column 'numbers' (or 'nums')")
    scores: list[float | None] = []
    judged = zip(turns(completions, prompts, prefill), target, columns, strict=True)
    for row, (turn, goal, values) in enumerate(judged):
        try:
            problem = read_problem(values, goal)
        except ValueError as error:
            scores.append(None)
            if log_error is not None:
                log_error(row, str(error))
            continue
        expression = find_expression(turn)
        scores.append(float(expression is not None and solves(expression, *problem, use_all)))
    return scores


def countdown_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row in any of the forms of `row_problem`, as {question, numbers, target}.

    Raises:
        UserError: a column is missing or holds something else than whole numbers.
    """
    try:
        numbers, target = row_problem(row)
    except ValueError as error:
        raise UserError(f"countdown: {error}") from error
    question = (
        f"Make {target} from the numbers {', '.join(map(str, numbers))}: write one expression with +, -, * and /, "
        "with parentheses where needed, that uses each of the numbers exactly once."
    )
    return {"question": question, "numbers": numbers, "target": target}


def row_problem(row: dict[str, Any]) -> tuple[list[int], int]:
    """The numbers and the target of a row: {numbers or nums, target}, or d1's {input: "30,100,93", output: "23"}.

    Raises:
        ValueError: a column is missing or holds something else than whole numbers.
    """
    _, numbers = first_present(row, ("numbers", "nums", "input"))
    _, target = first_present(row, ("target", "output"))
    try:
        return read_problem(numbers, target)
    except ValueError as error:
        raise ValueError(f"{error}; a row needs numbers, nums or input, and target or output") from error


def read_problem(numbers: Any, target: Any) -> tuple[list[int], int]:
    """The given numbers and the one to make, from lists of numbers or numerals, or text such as "30,100,93".

    Raises:
        ValueError: something is no whole number, a given number is negative, or there is none.
    """
    whole = _whole_numbers(numbers)
    if min(whole) < 0:
        raise ValueError(f"{numbers!r:.80} holds a negative number")
    return whole, _whole_numbers([target])[0]


def _whole_numbers(value: Any) -> list[int]:
    items = re.split(r"[\s,;]+", value.strip(" \t\n[]()")) if isinstance(value, str) else value
    try:
        numbers = [int(item) for item in items]
        whole = all(isinstance(item, str) or item == number for item, number in zip(items, numbers, strict=True))
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole or not numbers:
        raise ValueError(f"{value!r:.80} is no list of whole numbers")
    return numbers


def find_expression(text: str) -> str | None:
    """What stands in the last answer tag, or in the last box."""
    text = after_thought(text)
    before, tag, _ = text.rpartition("</answer>")
    if tag:
        _, opened, inside = before.rpartition("<answer>")
        return (last_boxes(inside) or inside) if opened else None
    return last_boxes(text)


def solves(expression: str, numbers: Sequence[int], target: int, use_all: bool = True) -> bool:
    """Whether the expression has the target's value and uses the numbers exactly (or at most) as often as given.

    >>> solves("(3 + 5) × 2 = 16", [2, 3, 5], 16), solves("8 * 2", [2, 3, 5], 16), solves("5 / 0", [5, 0], 1)
    (True, False, False)
    """
    left, equals, right = _plain(expression).partition("=")
    if (equals and right.strip() != str(target)) or not _ARITHMETIC.fullmatch(left):
        return False
    used, allowed = Counter(int(digits) for digits in re.findall("[0-9]+", left)), Counter(numbers)
    if used != allowed if use_all else not used <= allowed:
        return False
    try:
        return _value(ast.parse(left.strip(), mode="eval").body) == target
    except (SyntaxError, ZeroDivisionError):
        return False


def _plain(expression: str) -> str:
    """In Python's signs; what is too long or cannot be said in them stays and is refused."""
    if len(expression) > MAX_CHARACTERS:
        return ""
    text = _COMMAND.sub(lambda match: _LATEX[match[0]], expression.translate(_SIGNS))
    while _FRACTION.search(text):
        text = _FRACTION.sub(r"((\1)/(\2))", text)
    return " ".join(text.split()).rstrip(" .")


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int(value)):
            return Fraction(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_value(left), _value(right))
    raise SyntaxError("only + - * / of whole numbers")
