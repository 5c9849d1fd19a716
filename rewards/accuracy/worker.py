"""What the grader's child process runs: math-verify and sympy live here, started by `rewards.accuracy.child`.

This file imports nothing of the project: it must work whatever folder it is started from.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy import Basic, Derivative, Expr, Float, I, Integral, Limit, Pow, Product, Rational, Sum, Symbol
from sympy.core.function import AppliedUndef

_ARITHMETIC = re.compile(r"[\d\s.,+\-*/^()%]+")
_COMMAND = re.compile(r"\\(?:begin|end|mathbb|mathcal)\s*\{[^{}]*\}|\\[a-zA-Z]+|[A-Za-z]")
# Its units include single letters: nothing is left of "\\sin^2 t" (tons), and of 6 + 9c it is 15.
_DEFAULT = LatexExtractionConfig().normalization_config
_LATEX = LatexExtractionConfig(normalization_config=replace(_DEFAULT, units=False))
_SLOW = (Float, Sum, Product, Integral, Derivative, Limit)
_NO_LETTERS = re.compile(r"\\(?:text|mbox|mathrm|operatorname)\s*\{[^{}]*\}|_\s*(?:\{[^{}]*\}|\w)")
logging.disable(logging.CRITICAL)  # math-verify warns at every call that its own (signal) timeouts are off


def judge(gold: str, answer: str | None) -> str:
    """The verdict on one answer; `answer` None asks only whether the gold can be parsed."""
    try:
        if answer is not None and primes(gold) != primes(answer):
            return "unequal"
        gold, answer = in_one_case(gold, answer or "") if answer is not None else (gold, None)
        expected = read(gold)
        if not expected:
            return "unparseable"
        if answer is None:
            return "equal"
        given = read(answer)
        if not given:
            return "unequal"
        if any(isinstance(item, Basic) and item.has(Derivative) for item in expected + given):
            return "equal" if expected == given else "unequal"  # of letters, which are no functions, it is 0
        tried = compare_values(expected, given)
        if tried is None or (tried is False and "%" in gold + answer):
            same = verify(expected, given, timeout_seconds=None, allow_set_relation_comp=True)
            tried = bool(same) and close(expected, given)
        return "equal" if tried else "unequal"
    except Exception:  # noqa: BLE001 - any string may break sympy in any way: what it cannot compare is not equal
        return "unequal"


def primes(text: str) -> int:
    """How many there are: the parser drops them."""
    return text.count("'") + text.count("\\prime")


def read(text: str) -> list[Any]:
    """The expressions that `text` writes, as LaTeX or else as a plain expression; never a string, nor a part of it."""
    flat = " ".join(text.split())
    wrapped = (f"${flat}$", f"\\boxed{{{flat}}}")
    parsed = (parse(form, [_LATEX], "no_fallback", parsing_timeout=None) for form in wrapped)
    found: list[Any] = next(filter(None, parsed), [])
    if found and not holds_letters(flat, found):
        return []
    if not found and _ARITHMETIC.fullmatch(flat):  # of any other text it would read just some number in it
        found = parse(flat, [ExprExtractionConfig()], "no_fallback", parsing_timeout=None)
    return list(found)


def holds_letters(text: str, found: list[Any]) -> bool:
    """Whether the letters that `text` writes came out of the parser: it drops what it does not know (E_1)."""
    written = {letter.lower() for letter in _COMMAND.findall(_NO_LETTERS.sub(" ", text)) if len(letter) == 1}
    names = [symbol.name for item in found if isinstance(item, Basic) for symbol in item.atoms(Symbol)]
    names += [
        type(function).__name__ for item in found if isinstance(item, Basic) for function in item.atoms(AppliedUndef)
    ]
    read = set("".join(names).lower())
    return written <= read | set("eid") or not all(isinstance(item, Basic) for item in found)


def in_one_case(gold: str, answer: str) -> tuple[str, str]:
    """Both texts, with capitals that occur small, too (R and r), as letters of their own: the parser has small ones. So
    has E, which it takes for e."""
    letters = {found for found in _COMMAND.findall(gold + " " + answer) if len(found) == 1}
    free = iter([letter for letter in "abcfghjklmnopqrstuvwxyz" if not {letter, letter.upper()} & letters])
    both = [letter for letter in sorted(letters) if letter.isupper() and (letter.lower() in letters or letter == "E")]
    other = dict(zip(both, free, strict=False))
    gold, answer = (_COMMAND.sub(lambda m: other.get(m[0], m[0]), text) for text in (gold, answer))
    return gold, answer


def compare_values(expected: list[Any], given: list[Any]) -> bool | None:
    """Whether two expressions have the same value to 60 digits wherever they are tried, which is quicker than to
    simplify them, and finds more; None where that does not tell.

    Letters stand for positive numbers where both sides have roots of them, so that the root of 1/n is 1 over that of n.
    """
    gold, answer = expected[0], given[0]
    if not (isinstance(gold, Expr) and isinstance(answer, Expr)) or gold.has(*_SLOW) or answer.has(*_SLOW):
        return None
    gold, answer = (
        side.subs({symbol: I for symbol in side.free_symbols if symbol.name == "i"}) for side in (gold, answer)
    )
    symbols = sorted(gold.free_symbols, key=str)
    if gold.free_symbols != answer.free_symbols or len(symbols) > 6:
        return None
    roots = all(any(not power.exp.is_integer for power in side.atoms(Pow)) for side in (gold, answer))
    for number, signs in enumerate((1,) if not symbols else (1, 1) if roots else (1, 1, -1, 0)):
        point = {
            symbol: Rational(7 * n + 5 * number + 2, 5 + 2 * n) * (signs or (-1) ** n)
            for n, symbol in enumerate(symbols)
        }
        verdict = compare_at(gold, answer, point)
        if not verdict:
            return verdict if signs == 1 else None
    return True


def compare_at(gold: Any, answer: Any, point: dict[Any, Any]) -> bool | None:
    """Whether both have one value there; None where one has none that is finite, or they are too near to tell."""
    a, b = (side.subs(point).doit().evalf(70, maxn=200) for side in (gold, answer))
    if not (a.is_number and b.is_number and a.is_finite and b.is_finite):
        return None
    apart, size = abs(a - b), max(abs(a), abs(b))
    if apart == 0 or apart <= size * Rational(1, 10**50):
        return True
    return False if apart > size / 100_000 and size > Rational(1, 10**40) else None


def close(expected: list[Any], given: list[Any]) -> bool:
    """Whether two numbers that math-verify found equal are so relative to their size.

    It compares numbers rounded to six decimals, which makes 1/2^98 equal to 1/2^99.
    """
    for gold in expected:
        for answer in given:
            if not (isinstance(gold, Basic) and isinstance(answer, Basic)):
                return True
            if not (gold.is_number and answer.is_number):
                return True
            if gold == answer or agree(gold, answer):
                return True
    return False


def agree(gold: Any, answer: Any) -> bool:
    """Six digits of two numeric expressions, at 30 digits of working precision; percent may stand for its number."""
    a, b = gold.doit().evalf(30), answer.doit().evalf(30)
    return any(bool(abs(a - scale * b) <= 1e-6 * abs(a)) for scale in (1, 100, 0.01))


read("$1$")  # the parsers' first use is slow: before the first fork, not in every one
