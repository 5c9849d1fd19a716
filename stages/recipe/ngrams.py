"""Decontamination: training texts that hold a good part of an evaluation problem, found by the n-grams they share.

Ten words in a row are DeepSeekMath's measure (arXiv:2402.03300, section 2.1.1). One shared run alone says little in
mathematics, where problems share their wording ("where m and n are relatively prime positive integers"): it would
remove a fifth of MATH's training set. So a text counts as a copy when it holds at least a set share of the problem's
n-grams, and each of its numbers: the same question about other numbers is another problem. Words are runs of letters
and digits in lower case: punctuation and LaTeX's backslashes do not matter. Writing without spaces (Thai, Chinese,
Japanese, Lao, Khmer, Burmese) is compared by its characters. A problem shorter than n is looked for whole.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

SHORTEST = 5  # units of a problem that is looked for whole; "What is 2 + 3?" has two numbers and two words
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNITS = re.compile(rf"[{_SPACELESS}]|(?:(?![{_SPACELESS}])[^\W_])+")
_ASCII_UNITS = re.compile("[a-z0-9]+")


def units(text: str) -> list[str]:
    """Words, and characters where words are not set apart.

    >>> units("Let $x = \\\\frac{1}{2}$. 共13只")
    ['let', 'x', 'frac', '1', '2', '共', '13', '只']
    """
    if text.isascii():
        return _ASCII_UNITS.findall(text.lower())
    return _UNITS.findall(unicodedata.normalize("NFKC", text).casefold())


class Ngrams:
    """The n-grams of the evaluation problems, n units each. A text with this `share` of a problem's is a copy, or with
    one of them (0)."""

    def __init__(self, problems: Iterable[str], n: int, share: float) -> None:
        self.n, self.share = n, share
        self.problems = list(dict.fromkeys(problems))
        self.owners: defaultdict[int, list[int]] = defaultdict(list)
        self.sizes: list[int] = []
        self.numbers: list[set[str]] = []
        self.lengths: set[int] = set()  # of the problems shorter than n
        for number, text in enumerate(self.problems):
            words = units(text)
            length = min(n, len(words))
            grams = set(hashes(words, length)) if length >= min(n, SHORTEST) else set()
            for gram in grams:
                self.owners[gram].append(number)
            self.sizes.append(len(grams))
            self.numbers.append(_numbers(words))
            if grams and length < n:
                self.lengths.add(length)

    def copied(self, text: str) -> str | None:
        """The evaluation problem that `text` holds the largest share of, if that is enough; else None."""
        words = units(text)
        grams = set(hashes(words, self.n)).union(*(hashes(words, length) for length in self.lengths))
        shared: Counter[int] = Counter()
        for gram in self.owners.keys() & grams:
            shared.update(self.owners[gram])
        numbers = _numbers(words) if shared else set()
        copies = [
            number
            for number, count in shared.items()
            if count >= self.share * self.sizes[number] and self.numbers[number] <= numbers
        ]
        if not copies:
            return None
        return self.problems[max(copies, key=lambda number: shared[number] / self.sizes[number])]


def _numbers(words: Sequence[str]) -> set[str]:
    return {unit for unit in words if not unit.isalpha() and any(map(str.isdigit, unit))}


def hashes(text: Sequence[str], n: int) -> list[int]:
    """One number for every n units in a row: 64 bits, so that two that differ practically never share it."""
    return [hash(gram) for gram in zip(*(text[offset:] for offset in range(n)), strict=False)]
