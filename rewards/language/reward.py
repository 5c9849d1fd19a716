"""The language consistency reward of DeepSeek-R1: (words of the target language in the chain of thought) / (all words).

What a word is says `rewards.language.words`; numbers, formulas and code are none. R1 does not say how it splits words,
nor what a chain of thought without any is worth: here an empty one 0.0, so that not thinking does not pay; to one of
numbers and formulas ("682 + 967 = 1649"), which is in no language, the reward does not apply: None.

Languages are told apart by their script. That is exact and fast, and all that is needed where a model switches between
English and Chinese or Thai. Languages that share one (English, French, German: Latin) are then not told apart: French
in an English chain of thought counts as English. With `detect: true` a language detector (`rewards.language.detector`)
takes out the sentences of other languages; words of another script are foreign with it as without. It is an option
because it guesses: short notes between formulas are hard to place, and it takes about 0.2 ms a sentence.

Japanese takes Han and Kana together, but a text of Han without any Kana is not Japanese; for Chinese, Kana is foreign.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from grpo.errors import UserError
from rewards.language.detector import foreign_words, identifier, rivals
from rewards.language.words import count_words, scripts_of
from rewards.turns import turns

__all__ = ["chain_of_thought", "consistency", "count_words", "language_consistency", "scripts_of"]

_TAG = re.compile(r"</?[A-Za-z][^<>\n]{0,200}>|<[|｜][^<>\n]{0,60}>")


def language_consistency(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    prefill: Sequence[str | None] | None = None,
    language: Sequence[str | None] | str | None = None,
    *,
    think_tag: str = "think",
    detect: bool = False,
    wordless: float | None = None,
    log_error: Callable[[int, str], None] | None = None,
) -> list[float | None]:
    """The share of target-language words in each chain of thought, 0.0 to 1.0.

    Args:
        completions: strings, or lists of messages whose last one is read.
        prompts: see `rewards.format.format_reward`; they tell whether the template opened the thinking.
        prefill: likewise.
        language: an ISO 639 code (with a script where there are several: "sr-Latn") for all rows (the config's
            `kwargs`), or the column of that name. A row whose column is null gets None: the reward does not apply.
        think_tag: name of the tag around the thinking.
        detect: whether sentences in other languages of the target's script are found and counted as foreign.
        wordless: what a thought of numbers and formulas only counts, 0 to 1; None: the reward does not apply. Beside
            siblings with words, which are paid for them, that makes words pay: 1 where either way will do.
        log_error: given by the scoring layer, takes (row, reason).

    Raises:
        UserError: no language given, a code in the config that is not known, `wordless` beyond 0 to 1, or `detect`
            without its package.

    >>> language_consistency(["<think>two plus สาม</think>5"], language="en")
    [0.6666666666666666]
    """
    if language is None:
        raise UserError(
            "reward 'language': give `kwargs: {language: en}`, or a column `language` in the data (grpo score takes no "
            "kwargs: add the column, or name a small function of your own that sets it)"
        )
    if detect:
        identifier()  # not installed: an error now rather than one a row
    if wordless is not None and not 0 <= wordless <= 1:
        raise UserError(f"reward 'language': wordless is a share between 0 and 1, not {wordless}")
    if isinstance(language, str):  # a wrong code in the config stops the run, one in the data spoils its row only
        _ = rivals(language) if detect else scripts_of(language)
        language = [language] * len(completions)
    scores: list[float | None] = []
    for row, (turn, code) in enumerate(zip(turns(completions, prompts, prefill, think_tag), language, strict=True)):
        thought = chain_of_thought(turn, think_tag)
        try:
            share = None if code is None else consistency(thought, code, detect)
            scores.append(wordless if share is None and code is not None else share)
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


def consistency(text: str, language: str, detect: bool = False) -> float | None:
    """(words in the scripts of `language`, without the foreign ones that are detected) / (all words); 0.0 of a text
    that says nothing, None of one that holds numbers and formulas only.

    Raises:
        UserError: unknown language code, or one that the detector does not know.
    """
    scripts = scripts_of(language)
    words = count_words(text)
    total = sum(words.values())
    if total == 0 and any(unicodedata.category(char)[0] in "LN" for char in _TAG.sub("", text)):
        return None
    if total == 0 or (scripts > {"HAN"} and not words["HIRAGANA"] + words["KATAKANA"]):
        return 0.0
    own = sum(count for script, count in words.items() if script in scripts)
    return (own - (foreign_words(text, language) if detect else 0)) / total
