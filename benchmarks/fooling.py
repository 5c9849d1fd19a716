r"""What fools the math grader: right answers made wrong, and rewritten without a change, over the golds of real sets.

    python benchmarks/fooling.py [--every N]       (data from GRPO_DATA, or ../shared/data; some ten minutes)

A wrong answer is made from a gold by one change of a sign, an order, a digit, a unit, a relation, a base, a letter, a
decimal point, or by putting it into an equation, a number word, a hedge or a sentence. At most 0.2% may be accepted;
each that is gets listed. A right answer is made by decoration, a name, another order of what has none, another unit,
another spelling of a number: 98% must be accepted. Writes benchmarks/fooling.json.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.grader import boxed, graded, pairs, share  # noqa: E402
from benchmarks.real_data import data_folder  # noqa: E402
from rewards.accuracy.extraction import read_golds  # noqa: E402
from rewards.accuracy.normalise import plain  # noqa: E402
from rewards.accuracy.numbers import parse_value  # noqa: E402
from rewards.accuracy.reward import gold_is_parseable  # noqa: E402

SETS = ("GSM8K test", "MATH test", "OlympiadBench", "Minerva")
Change = Callable[[str, random.Random], str | None]  # None: the gold has nothing of the kind

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_WITH_UNIT = re.compile(r"(.*\d\}?) ?\\(?:text|mbox) ?\{ ?([a-z. ]+?)s?\.? ?\}", re.DOTALL)
_TOKEN = re.compile(r"\\[a-zA-Z]+|[A-Za-z]")
_FUNCTIONS = ("sin", "cos", "tan", "log", "ln")


def is_number(gold: str) -> bool:
    return _NUMBER.fullmatch(gold) is not None


# ---- wrong ----


def sign(gold: str, draw: random.Random) -> str | None:
    """One sign turned."""
    if re.search(r"\\pm|\\mp|\||^-?0+$", gold) or re.search(r"[A-Za-z]{4,}", re.sub(r"\\[a-zA-Z]+", "", gold)):
        return None
    places = [match.start() for match in re.finditer(r"[+-](?=[ \\\w(])", gold)]
    if not places:
        return "-" + gold if re.match(r"\d|\\[dt]?frac", gold) and ":" not in gold and "," not in gold else None
    place = draw.choice(places)
    return gold[:place] + ("-" if gold[place] == "+" else "+") + gold[place + 1 :]


def digit(gold: str, draw: random.Random) -> str | None:
    """One digit changed."""
    places = [match.start() for match in re.finditer(r"\d", gold)]
    if not places:
        return None
    place = draw.choice(places)
    return gold[:place] + str((int(gold[place]) + draw.randint(1, 8)) % 10) + gold[place + 1 :]


def order(gold: str, draw: random.Random) -> str | None:
    """Two coordinates, parts of a ratio, or neighbouring letters of a name changed in their order."""
    pair = re.fullmatch(r"(?:\\left)?\(([^(),]+),([^(),]+?)(?:\\right)?\)", gold)
    if pair and pair[1].strip() != pair[2].strip():
        return f"({pair[2]},{pair[1]})"
    ratio = re.fullmatch(r"(\d+):(\d+)", gold)
    if ratio:
        return f"{ratio[2]}:{ratio[1]}"
    name = re.fullmatch(r"(?:\\text\{)?([A-Z][A-Za-z]+)\}?", gold)
    if name and len(set(name[1].lower())) > 1:
        letters = list(name[1])
        places = [i for i in range(len(letters) - 1) if letters[i].lower() != letters[i + 1].lower()]
        place = draw.choice(places)
        letters[place : place + 2] = letters[place : place + 2][::-1]
        return "".join(letters)
    number = re.fullmatch(r"-?\d{2,}", gold)
    if number and gold[-1] != gold[-2]:
        return gold[:-2] + gold[-1] + gold[-2]
    return None


def unit(gold: str, draw: random.Random) -> str | None:
    """Another unit where the gold has one; a percent sign behind a share."""
    with_unit = _WITH_UNIT.fullmatch(gold)
    if with_unit and "unit" not in with_unit[2]:
        other = draw.choice([name for name in ("km", "kg", "weeks", "volts") if name[:2] != with_unit[2][:2]])
        return rf"{with_unit[1]}\text{{ {other}}}"
    if re.match(r"\\\$\s*[\d.,]+$", gold):
        return gold.replace(r"\$", "") + r"\text{ cents}"
    return gold + r"\%" if re.fullmatch(r"0\.\d+", gold) else None


def relation(gold: str, draw: random.Random) -> str | None:
    """A relation turned, or the end of an interval opened."""
    signs = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\leq": "<", r"\geq": ">", "=": r"\ne "}
    found = list(re.finditer(r"\\(?:le|ge)q?(?![a-z])|[<>=]", gold))
    if found:
        match = draw.choice(found)
        return gold[: match.start()] + signs[match[0]] + gold[match.end() :]
    if re.fullmatch(r"[(\[][^()\[\]]+,[^()\[\]]+[)\]]", gold) and (gold[0] == "[" or gold[-1] == "]"):
        return gold.replace("[", "(", 1) if gold[0] == "[" else gold[:-1] + ")"
    return None


def base(gold: str, draw: random.Random) -> str | None:
    """Another base, or one where the gold is decimal."""
    based = re.fullmatch(r"(\d+)_\{?(\d)\}?", gold)
    if based:
        return f"{based[1]}_{{{int(based[2]) + 1}}}"
    return f"{gold}_{{9}}" if re.fullmatch(r"[1-8][0-8]+", gold) else None


def letter(gold: str, draw: random.Random) -> str | None:
    """One variable or function replaced."""
    found = [match for match in _TOKEN.finditer(gold) if match[0] in "abckmnprtxyz" or match[0][1:] in _FUNCTIONS]
    if (
        not found
        or re.search(r"\\(?:text|mbox|mathrm|begin)|[A-Za-z]{4,}", re.sub(r"\\[a-z]+", "", gold))
        or "text" in gold
    ):
        return None
    match = draw.choice(found)
    new = "q" if len(match[0]) == 1 else rf"\{draw.choice([name for name in _FUNCTIONS if name != match[0][1:]])}"
    return gold[: match.start()] + new + gold[match.end() :]


def point(gold: str, draw: random.Random) -> str | None:
    """The decimal point lost, or put in."""
    if re.fullmatch(r"-?[1-9]\d*\.\d+", gold):
        return gold.replace(".", "")
    return gold[:-1] + "." + gold[-1] if re.fullmatch(r"-?\d{2,}", gold) and int(gold) else None


def equation(gold: str, draw: random.Random) -> str | None:
    """An equation of which the gold is not the solution."""
    left = draw.choice(["2x", "-x", "x^2", r"\sqrt{x}", "x-1", "x/2", r"\frac{1}{x}", "a+b", r"3x+1", "|x|"])
    return f"{left}={gold}" if is_number(gold) and float(gold) not in (0, 1) else None


def number_word(gold: str, draw: random.Random) -> str | None:
    """A word that multiplies."""
    word = draw.choice(["million", "hundredths", "thousand", "dozen", "factorial", "squared", "lakh", "thirds"])
    return f"{gold} {word}" if is_number(gold) and float(gold) not in (0, 1, 2) else None


def hedge(gold: str, draw: random.Random) -> str | None:
    """The gold, and another answer beside it."""
    other = draw.choice([" or 9973", ", 9973", "; 9973", " and 9973", r" \text{ or } 9973", " / 9973"])
    nothing = re.fullmatch(r"(?:\\(?:begin|end)\{[a-z]+\}|[\s&\\]|0)*", gold)  # 0, or a vector of zeros, over 9973
    return None if re.search("or|9973", gold) or ("/" in other and nothing) else gold + other


def sentence(gold: str, draw: random.Random) -> str | None:
    """A phrase that says something else of the number."""
    words = draw.choice(
        ["more than", "twice", "half of", "minus", "in chapter", "at most", "the square root of", "not"]
    )
    return f"The answer is {words} {gold}." if is_number(gold) and float(gold) not in (0, 1) else None


def text(gold: str, draw: random.Random) -> str | None:
    """A sign, relation or number of a text changed."""
    wrapped = re.fullmatch(r"\\(?:text|mbox)\{([^{}]*)\}", gold)
    if not wrapped or not re.search(r"[A-Za-z]{2,}", wrapped[1]):
        return None
    return rf"\text{{{wrapped[1]}, x < {draw.randint(2, 9)}}}"


WRONG: dict[str, Change] = {
    change.__name__: change
    for change in (
        sign,
        digit,
        order,
        unit,
        relation,
        base,
        letter,
        point,
        equation,
        number_word,
        hedge,
        sentence,
        text,
    )
}


# ---- right ----


def decorated(gold: str, draw: random.Random) -> str | None:
    """Colours, sizes, weights, brackets that say nothing."""
    mark = draw.choice([r"\boldsymbol{%s}", r"\textcolor{red}{%s}", r"{\color{blue} %s}", r"\large %s",
    r"\displaystyle %s",
                        r"\underline{%s}", r"{%s}", r" %s ", r"\,%s\,", r"\[%s\]", "$%s$",
                        "%s.", r"\bm{%s}", r"\mathbf{%s}"])  # fmt: skip
    return mark % gold


def said(gold: str, draw: random.Random) -> str | None:
    """A sentence that gives it."""
    around = draw.choice(["The answer is ${}$.", "**Final Answer:** ${}$",
    "Therefore, the final answer is: ${}$. I hope it "
                          "is correct.", "#### ${}$", "<answer>${}$</answer>", "The answer is \\({}\\)."])  # fmt: skip
    return None if "$" in gold or "\n" in gold else around.replace("{}", gold)


def with_name(gold: str, draw: random.Random) -> str | None:
    """x = gold."""
    if re.search(r"[=<>,:]|\\(?:[lg]e(?:q|qslant)?|in|ne|text|mbox|pm|cup)(?![a-z])", gold) or re.search(
        r"[A-Za-z]{2}", _TOKEN.sub("", gold)
    ):
        return None
    return f"{draw.choice(['x', 'f(x)', 'n', 'S', 'AB'])} = {gold}" if re.search(r"\d|\\", gold) else None


def permuted(gold: str, draw: random.Random) -> str | None:
    """The items of a list, or the terms of a sum, the other way round."""
    if re.fullmatch(r"[^()\[\]{}:;]+(?:,[^()\[\]{}:;]+)+", gold) and not re.search(
        r"text|mbox|\d,\d{3}|dots|,\\!|and|or", gold
    ):
        return ", ".join(part.strip() for part in reversed(gold.split(",")))
    two = re.fullmatch(r"([^+\-=<>,()\[\]{}]+) ?\+ ?([^+\-=<>,()\[\]{}]+)", gold)
    return f"{two[2]} + {two[1]}" if two and "text" not in gold else None


def other_unit(gold: str, draw: random.Random) -> str | None:
    """The same in another unit, without one, or with one where the gold has none."""
    value = parse_value(plain(gold))
    with_unit = _WITH_UNIT.fullmatch(gold)
    scales = {
        "meter": ("cm", 100),
        "cent": ("dollars", 0.01),
        "hour": ("minutes", 60),
        "feet": ("inches", 12),
        "cm": ("mm", 10),
    }
    if with_unit and value is not None and with_unit[2] in scales and re.fullmatch(r"\d+", with_unit[1]):
        name, factor = scales[with_unit[2]]
        return rf"{round(int(with_unit[1]) * factor, 6)}\text{{ {name}}}"
    if with_unit:
        return with_unit[1]
    name = draw.choice(["cm", "dollars", "apples", "km/h", "square meters", "people", "meters per second"])
    return rf"{gold}\text{{ {name}}}" if is_number(gold) else None


def respelt(gold: str, draw: random.Random) -> str | None:
    """The same number, or fraction, written otherwise."""
    if re.fullmatch(r"\d{4,}", gold):
        return draw.choice(
            [f"{int(gold):,}", f"{int(gold):,}".replace(",", "{,}"), f"{int(gold):,}".replace(",", r"\,"), gold + ".0"]
        )
    if re.fullmatch(r"-?\d+", gold):
        return draw.choice(
            [gold + ".0", rf"\frac{{{gold}}}{{1}}", rf"\text{{{gold}}}", f"{int(gold) * 2}/2", f"{int(gold) - 1}+1"]
        )
    fraction = re.fullmatch(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}", gold)
    if fraction:
        over, under = int(fraction[2]), int(fraction[3])
        return fraction[1] + draw.choice(
            [f"{over}/{under}", rf"\dfrac{{{over}}}{{{under}}}", rf"\frac{{{3 * over}}}{{{3 * under}}}"]
        )
    based = re.fullmatch(r"(\d+)_\{?(\d)\}?", gold)
    if based:
        return draw.choice([rf"{based[1]}\text{{ (base {based[2]})}}", f"{based[1]} base {based[2]}", based[1]])
    ascii_form = gold.replace(r"\pi", "pi").replace(r"\cdot", "*")
    return ascii_form if ascii_form != gold and not re.search(r"pi[a-z\d]|[a-z]pi", ascii_form) else None


RIGHT: dict[str, Change] = {
    change.__name__: change for change in (decorated, said, with_name, permuted, other_unit, respelt)
}


def made(changes: dict[str, Change], every: int) -> Iterator[tuple[str, str, str, Any]]:
    """(kind, set, completion, gold) of each change that a gold allows, the same at each run."""
    for name in SETS:
        for number, (_, gold) in enumerate(pairs(name)[::every]):
            golds = read_golds(gold)
            if len(golds) != 1 or not gold_is_parseable(gold):
                continue
            own = re.sub(r"^\$(.*)\$$", r"\1", golds[0].strip())
            for kind, change in changes.items():
                written = change(own, random.Random(f"{name} {number} {kind}"))
                if written is not None and written != own:
                    is_whole = kind in ("said", "sentence")
                    yield kind, name, written if is_whole else f"So it is ${boxed(written)}$.", own


def measure(changes: dict[str, Change], every: int, wanted: float) -> dict[str, Any]:
    """Of each kind how many got `wanted`, and those that did not."""
    rows = list(made(changes, every))
    scores = graded([(completion, gold) for _, _, completion, gold in rows])
    tried, failed = Counter(row[0] for row in rows), Counter[str]()
    listed = []
    for (kind, name, completion, gold), score in zip(rows, scores, strict=True):
        if score != wanted:
            failed[kind] += 1
            listed.append([kind, name, gold, completion])
    return {
        "tried": len(rows),
        "failed": len(listed),
        "kinds": {k: [failed[k], tried[k]] for k in tried},
        "list": listed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="only each N-th gold")
    every = parser.parse_args().every
    if data_folder() is None:
        raise SystemExit("no data: set GRPO_DATA to the folder that holds sets/ and cases/")
    report = {"wrong accepted": measure(WRONG, every, 0.0), "right refused": measure(RIGHT, every, 1.0)}
    for what, found in report.items():
        print(f"{what}: {share(found['failed'], found['tried'])}")
        for kind, (failed, tried) in found["kinds"].items():
            print(f"  {kind}: {share(failed, tried)}")
        for kind, name, gold, completion in found["list"]:
            print(f"    {kind}, {name}: {gold!r} | {completion!r}")
    if every == 1:
        (HERE / "fooling.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
