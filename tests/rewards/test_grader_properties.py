"""What must hold for any answer of a kind: permuted, negated, scaled, in another unit or base,
decorated; and for hostile
text of any length."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.accuracy.choices import choice
from rewards.accuracy.compare import quick_verdict, spelt, vote
from rewards.accuracy.equality import is_equal
from rewards.accuracy.extraction import extract_answer
from rewards.accuracy.normalise import plain
from rewards.accuracy.reward import grade

quickly = settings(max_examples=25, deadline=None, derandomize=True)
numbers = st.integers(2, 10**6)
MARKS = [r"\boldsymbol{%s}", r"\textcolor{red}{%s}", r"{\color{blue} %s}", r"\large %s", r"\underline{%s}", "{%s}",
"**%s**",
         r"\mathbf{%s}", r"\[%s\]", "$%s$", " %s.", r"\text{%s}", r"\therefore %s", r"\bf{%s}"]  # fmt: skip
LENGTHS = {"mm": 1, "cm": 10, "m": 1000, "km": 10**6}
OTHERS = ["kg", "hours", "dollars", "apples", "cm^2", "°C"]


def same(gold: str, answer: str) -> bool:
    return is_equal(gold, answer)


@quickly
@given(numbers, st.sampled_from(MARKS))
def test_decoration_changes_nothing(number, mark):
    assert same(str(number), mark % number)
    assert not same(str(number), mark % (number + 1))
    assert not same(str(number), mark % -number)


@quickly
@given(numbers, st.sampled_from(["", "km", "people"]), st.sampled_from(["cm", "%", "million", "元"]))
def test_negation_is_another_answer(number, unit, other):
    for text in (
        f"-{number}",
        f"−{number}",
        f"negative {number}",
        rf"-{number}\text{{ {other}}}",
        f"-\\frac{{{number}}}{{1}}",
    ):
        assert not same(f"{number} {unit}".strip(), text)
    assert same(f"-{number}", f"negative {number}")


@quickly
@given(st.integers(1, 999), st.sampled_from([*LENGTHS]), st.sampled_from([*LENGTHS]), st.sampled_from(OTHERS))
def test_units_of_one_dimension_convert_and_others_differ(number, one, other, foreign):
    scaled = number * LENGTHS[one] * 10**6 // LENGTHS[other]
    written = f"{scaled // 10**6}.{scaled % 10**6:06}"
    gold = rf"{number}\text{{ {one}}}"
    assert same(gold, rf"{written}\text{{ {other}}}")
    assert same(gold, f"{number} {other}") == (one == other)
    assert same(gold, str(number))
    assert same(str(number), f"{number} {foreign}")
    assert not same(gold, f"{number} {foreign}")


@quickly
@given(st.integers(10, 9999), st.integers(2, 9), st.integers(2, 9))
def test_bases(number, base, other):
    def written(value, to):
        return (written(value // to, to) if value >= to else "") + str(value % to)

    gold = f"{written(number, base)}_{{{base}}}"
    assert same(gold, f"{written(number, base)} (base {base})")
    assert same(str(number), gold)
    assert same(gold, f"{written(number, base)}_{other}") == (base == other)
    assert not same(gold, f"{written(number + 1, base)}_{base}")


@quickly
@given(
    st.integers(1, 12), st.integers(0, 59), st.integers(1, 12), st.integers(0, 59), st.sampled_from(["a.m.", "p.m."])
)
def test_times(hour, minute, other, later, half):
    gold = f"{hour}:{minute:02} {half}"
    assert same(gold, f"{hour:02}:{minute:02}{half.replace('.', '').upper()}")
    assert same(gold, f"{other}:{later:02} {half}") == ((hour, minute) == (other, later))
    assert not same(gold, gold.replace(half[0], "ap"["ap".index(half[0]) - 1], 1))
    assert not same(gold, rf"\frac{{{hour}}}{{{minute + 1}}}")


@quickly
@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(2, 9), st.randoms(use_true_random=False))
def test_ratios_scale_and_keep_their_order(parts, factor, draw):
    gold = ":".join(map(str, parts))
    assert same(gold, " : ".join(str(part * factor + 0) for part in parts)) or factor * parts[-1] >= 10
    shuffled = list(parts)
    draw.shuffle(shuffled)
    assert same(gold, ":".join(map(str, shuffled))) == (shuffled == parts)
    assert not same(gold, gold + ":1")


@quickly
@given(
    st.lists(st.integers(-50, 50), min_size=2, max_size=5, unique=True),
    st.randoms(use_true_random=False),
    st.integers(51, 99),
)
def test_lists_permute_and_tuples_do_not(items, draw, extra):
    shuffled = list(items)
    draw.shuffle(shuffled)
    gold, answer = (", ".join(map(str, side)) for side in (items, shuffled))
    assert same(gold, answer)
    assert same(gold, " or ".join(f"x = {item}" for item in shuffled))
    assert same(gold, f"\\{{{answer}\\}}")
    assert not same(gold, f"{answer}, {extra}")
    assert same(f"({gold})", f"({answer})") == (shuffled == items)


@quickly
@given(st.text("ABCXYZ", min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_names_keep_their_order(name, draw):
    letters = list(name)
    draw.shuffle(letters)
    assert same(name, "".join(letters)) == ("".join(letters) == name)
    assert same(rf"\overline{{{name}}}", name)


@quickly
@given(st.sampled_from(["abc", "xy", "xyz", "ab", "mn"]), st.randoms(use_true_random=False))
def test_products_permute(name, draw):
    letters = list(name)
    draw.shuffle(letters)
    assert same(name, "".join(letters))
    assert same(f"3{name}", "3" + "".join(letters))


@quickly
@given(
    st.sampled_from(["slope", "Ann", "row", "x"]),
    st.sampled_from("<>=+-"),
    st.sampled_from("<>=+-"),
    st.integers(1, 99),
    st.integers(1, 99),
)
def test_texts_hold_their_signs_and_numbers(word, sign, other, number, wrong):
    gold = rf"\text{{the {word} {sign} {number}, no}}"
    assert same(gold, f"The {word} {sign} {number}, no.")
    assert same(gold, rf"\text{{the {word} {other} {wrong}, no}}") == ((sign, number) == (other, wrong))
    assert not same(rf"\text{{{word} is {number}.{wrong}, no}}", rf"\text{{{word} is {number}{wrong}, no}}")


@quickly
@given(
    numbers,
    st.sampled_from(["2x=%s", "-x=%s", "x/3=%s", "x^2=%s", "a+b=%s", r"\sqrt{x}=%s", "x>%s", r"x\ne %s", "|x|=%s"]),
)
def test_only_a_name_has_a_value(number, equation):
    assert same(str(number), f"x={number}")
    assert same(f"n = {number}", str(number))
    assert not same(str(number), equation % number)


@quickly
@given(numbers, st.integers(2, 10**6), st.sampled_from(["%s = %s", r"x = %s = %s", r"%s \approx %s", r"%s \sim %s"]))
def test_a_chain_of_two_numbers_is_no_answer(number, other, chain):
    if abs(number - other) > number // 10:
        assert not same(str(number), chain % (other, number))
        assert not same(str(number), chain % (number, other))
    assert same(str(number), f"x = {number} = {number}.0")


@quickly
@given(numbers, st.sampled_from("xkn"), st.sampled_from("'!?"))
def test_a_letter_or_mark_makes_another_answer(number, letter, mark):
    assert not same(f"{number}{letter}", str(number))
    assert not same(str(number), f"{number}{letter}")
    assert not same(letter, letter + mark)
    assert not same(str(number), f"{number}((")


@quickly
@given(st.integers(-50, 50), st.integers(-50, 50))
def test_all_but_one_number(number, other):
    union = rf"(-\infty, {number}) \cup ({number}, \infty)"
    assert same(union, rf"x \ne {other}") == (number == other)
    assert same(rf"x \ne {other}", union) == (number == other)
    assert not same(str(number), rf"x \ne {number}")


@quickly
@given(st.integers(-20, 20), st.integers(1, 20), st.booleans(), st.booleans())
def test_intervals_and_inequalities(low, width, left, right):
    signs = [("<", "(", ")"), (r"\le", "[", "]")]
    interval = f"{signs[left][1]}{low}, {low + width}{signs[right][2]}"
    assert same(interval, f"{low} {signs[left][0]} x {signs[right][0]} {low + width}")
    assert not same(interval, f"{low} {signs[not left][0]} x {signs[right][0]} {low + width}")
    union = rf"(-\infty, {low}{signs[left][2]} \cup {signs[right][1]}{low + width}, \infty)"
    opposite = {"<": ">", r"\le": r"\ge"}
    assert same(union, f"x {signs[left][0]} {low} or x {opposite[signs[right][0]]} {low + width}")
    assert not same(union, f"x {signs[left][0]} {low} or x {signs[right][0]} {low + width}")


@quickly
@given(
    st.sampled_from("ABCD"),
    st.sampled_from("ABCD"),
    st.sampled_from(["(%s)", "%s.", "Option %s", "%s. 3 m/s", r"\text{%s}", "**%s**", "%s"]),
)
def test_choices(letter, other, form):
    assert same(letter, form % other) == (letter == other)
    assert grade(f"The answer is {form % other}", letter) == float(letter == other)
    assert not same(letter, f"{letter} or {chr(ord(letter) + 1)}")


HOSTILE = ["x", "ab ", "1,", r"\boxed{", r"\frac{1}{", "((", "}{", r"\text{a} ", "1 cm ", "x=", "a:", r"\pm",
"answer is ", " or ", "**",
           "<think>", "A. ", "é", "½", "12元", "\\", "^{2}", "|", "not "]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
def test_no_text_takes_long(unit):
    """200,000 characters; a policy that has collapsed writes them."""
    began = time.process_time()
    text = unit * (200_000 // len(unit))
    for written in (text, rf"\boxed{{{text}}}", f"The answer is {text}", rf"\boxed{{{text[:400]}}}"):
        assert grade(written, "5", anywhere=True) in (0.0, 1.0)
    for short in (text, text[:2000]):
        quick_verdict(spelt("5"), spelt(short))
        vote(short)
        choice(plain(short[:2000]))
        extract_answer(short)
    assert time.process_time() - began < 4
