"""The language consistency reward of DeepSeek-R1: (words of the target language in the chain of thought) / (all words).

A word is a maximal run of letters and marks of one script; numbers, formulas, code, tags and links are no words, nor
is a single Latin or Greek letter ("x", "a"), which may be a variable: it counts on neither side. Some
scripts are written without spaces, where a run of n base letters counts as ceil(n / average length) words (`SPACELESS`,
marks not counted). R1 does not say how it splits words, nor what an empty chain of thought is worth: here 0.0, so that
not thinking does not pay.

Languages are told apart by their script. Languages that share one (English, French, German, Vietnamese: Latin) are
not: French in an English chain of thought counts as English. Japanese takes Han and Kana together, but a text of Han
without any Kana is not Japanese; for Chinese, Kana is foreign.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from grpo.errors import UserError, nearest
from rewards.format import opening

# Average letters a word, from the usual counts of running text; base letters only, so combining vowels do not count.
SPACELESS = {"HAN": 2, "HIRAGANA": 2, "KATAKANA": 4, "THAI": 4, "LAO": 4, "KHMER": 4, "MYANMAR": 4}

_BY_SCRIPT = {
    "LATIN": "en fr de es it pt nl sv da no nb nn fi pl cs sk sl hr bs ro hu tr az uz et lv lt sq mt ga cy is af sw vi "
    "id ms tl fil ca eu gl eo la zu xh yo ig ha so lb",
    "CYRILLIC": "ru uk be bg mk sr kk ky mn tg",
    "ARABIC": "ar fa ur ps ug sd ckb",
    "HEBREW": "he yi",
    "GREEK": "el",
    "ARMENIAN": "hy",
    "GEORGIAN": "ka",
    "DEVANAGARI": "hi mr ne sa",
    "BENGALI": "bn as",
    "GURMUKHI": "pa",
    "GUJARATI": "gu",
    "ORIYA": "or",
    "TAMIL": "ta",
    "TELUGU": "te",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "SINHALA": "si",
    "THAI": "th",
    "LAO": "lo",
    "KHMER": "km",
    "MYANMAR": "my",
    "TIBETAN": "bo dz",
    "ETHIOPIC": "am ti",
    "HANGUL": "ko",
    "HAN": "zh yue",
}
SCRIPTS = {language: frozenset({script}) for script, names in _BY_SCRIPT.items() for language in names.split()}
SCRIPTS["ja"] = frozenset({"HAN", "HIRAGANA", "KATAKANA"})
_PREFIXES = {"CJK": "HAN", "IDEOGRAPHIC": "HAN", "HALFWIDTH": "KATAKANA", "FULLWIDTH": "LATIN"}  # of character names

_NOT_WORDS = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|<\|[^|<>\n]*\|>|</?[A-Za-z][^<>\n]{0,200}>|https?://\S+"
    r"|\$\$.*?\$\$|\$[^$\n]*\$|\\\[.*?\\\]|\\\(.*?\\\)|\\begin\{(\w+)\*?\}.*?\\end\{\1\*?\}"
    r"|\\(?:boxed|frac|sqrt|d?frac)(?:\{[^{}]*\})*|\\[A-Za-z]+",
    re.DOTALL,
)


def language_consistency(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    prefill: Sequence[str | None] | None = None,
    language: Sequence[str | None] | str | None = None,
    *,
    think_tag: str = "think",
    log_error: Callable[[int, str], None] | None = None,
) -> list[float | None]:
    """The share of target-language words in each chain of thought, 0.0 to 1.0.

    Args:
        completions: strings, or lists of messages whose last one is read.
        prompts: see `rewards.format.format_reward`; they tell whether the template opened the thinking.
        prefill: likewise.
        language: an ISO 639 code for all rows (the config's `kwargs`), or the column of that name. A row whose
            column is null gets None: the reward does not apply.
        think_tag: name of the tag around the thinking.
        log_error: given by the scoring layer, takes (row, reason).

    Raises:
        UserError: no language given, or a code in the config that is not known.

    >>> language_consistency(["<think>two plus สาม</think>5"], language="en")
    [0.6666666666666666]
    """
    if language is None:
        raise UserError(
            "reward 'language': give `kwargs: {language: en}`, or a column `language` in the data (grpo score takes no "
            "kwargs: add the column, or name a small function of your own that sets it)"
        )
    if isinstance(language, str):
        scripts_of(language)  # a wrong code in the config stops the run, one in the data spoils its row only
        language = [language] * len(completions)
    scores: list[float | None] = []
    for row, (completion, code) in enumerate(zip(completions, language, strict=True)):
        text = completion if isinstance(completion, str) else str(completion[-1]["content"])
        head = opening((prefill[row] if prefill else None) or "", prompts[row] if prompts else "", think_tag)
        try:
            scores.append(None if code is None else consistency(chain_of_thought(head + text, think_tag), code))
        except UserError as error:
            scores.append(None)
            if log_error is not None:
                log_error(row, str(error))
    return scores


def chain_of_thought(text: str, think: str = "think") -> str:
    """What stands between the thinking tags.

    Never closed: all after the opening tag. Never opened but closed: all before the closing tag. Neither: the whole
    text, since a model that thinks without tags thinks there.
    """
    _, opened, after = text.partition(f"<{think}>")
    return (after if opened else text).partition(f"</{think}>")[0]


def consistency(text: str, language: str) -> float:
    """(words in the scripts of `language`) / (all words); 0.0 when there are no words.

    Raises:
        UserError: unknown language code.
    """
    scripts = scripts_of(language)
    words = count_words(text)
    total = sum(words.values())
    if total == 0 or (language.startswith("ja") and not words["HIRAGANA"] + words["KATAKANA"]):
        return 0.0
    return sum(count for script, count in words.items() if script in scripts) / total


def count_words(text: str) -> Counter[str]:
    """Number of words by script.

    >>> count_words("two สามสี่ห้า 12 + $x^2$")["THAI"]  # ส า ม ส ห า: six base letters, ceil(6 / 4)
    2
    """
    words: Counter[str] = Counter()
    script, letters = "", 0
    for char in _NOT_WORDS.sub(" ", text) + " ":
        kind = unicodedata.category(char)[0]
        if kind == "M" or (script == "LATIN" and char in "'’"):
            continue  # marks, and the apostrophe of "don't", belong to the word
        current = script_of(char) if kind == "L" else ""
        if current != script:
            if script in SPACELESS:
                words[script] += math.ceil(letters / SPACELESS[script])
            elif script and (letters > 1 or script not in ("LATIN", "GREEK")):
                words[script] += 1
            script, letters = current, 0
        letters += 1
    return words


def script_of(letter: str) -> str:
    """The script of a letter, by the first word of its Unicode name, e.g. THAI CHARACTER KO KAI."""
    if letter == "ー":  # the long vowel mark, whose name starts with KATAKANA-HIRAGANA
        return "KATAKANA"
    first = unicodedata.name(letter, "UNKNOWN").split(" ")[0]
    return _PREFIXES.get(first, first)


def scripts_of(language: str) -> frozenset[str]:
    """The scripts a language is written in; "zh-TW" and "zh_TW" are read as "zh".

    Raises:
        UserError: unknown language code.
    """
    code = re.split("[-_]", language.lower())[0] if isinstance(language, str) else ""
    if code not in SCRIPTS:
        raise UserError(f"reward 'language': unknown language code '{language}'{nearest(str(language), SCRIPTS)}")
    return SCRIPTS[code]
