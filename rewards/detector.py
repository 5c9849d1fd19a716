"""Telling languages of one script apart, with py3langid: offline, deterministic, 139 languages, a model of 3 MB.

A detector is unsure about short texts, so it is asked about stretches of whole sentences with at least `MIN_WORDS`
words, and only about the languages of the script that the words are written in. In doubt a stretch is the target's: it
is foreign when another language is `MARGIN` nats likelier. So a borrowed word or a name costs nothing, and a switch
within a sentence counts as the language that has most of it.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from grpo.errors import UserError
from rewards.words import SCRIPTS, count_words, prose, script_of, scripts_of

MIN_WORDS = 5
MARGIN = 5.0  # log-likelihood; measured: with 0, one sentence in a hundred is taken for a near relative's
_ALIASES = {"nb": "no", "fil": "tl"}
_SENTENCE_END = re.compile(r"(?<=[.!?…:;])\s+|[\n。！？؟।]+")


@functools.cache
def identifier() -> Any:
    """The detector, loaded once (half a second, 120 MB).

    Raises:
        UserError: py3langid is not installed.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise UserError("reward 'language': detect needs the package py3langid: pip install py3langid") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE)


def foreign_words(text: str, language: str) -> int:
    """How many words of `text`, all in the scripts of `language`, stand in stretches of another language.

    Raises:
        UserError: no py3langid, or a language that it does not know.
    """
    target, others = rivals(language)
    if not others:
        return 0
    return sum(words for stretch, words in _stretches(text, language) if _is_foreign(stretch, target, others))


@functools.lru_cache(64)
def rivals(language: str) -> tuple[str, frozenset[str]]:
    """(the detector's name of `language`, the other languages it knows of the same script); none: no need to detect.

    Raises:
        UserError: see `foreign_words`.
    """
    scripts = scripts_of(language)
    code = re.split("[-_]", language.lower())[0]
    target, labels = _ALIASES.get(code, code), frozenset(identifier().nb_classes)
    others = frozenset(label for label in labels - {target} if SCRIPTS.get(label, frozenset()) & scripts)
    if others and target not in labels:
        raise UserError(
            f"reward 'language': detect: the detector does not know '{language}'; use the two-letter code where there "
            "is one, or leave detect off to count the script's words"
        )
    return target, others


def _stretches(text: str, language: str) -> Iterator[tuple[str, int]]:
    """Whole sentences together until they have `MIN_WORDS` words; what is left at the end joins the last of them."""
    scripts = scripts_of(language)
    ready: tuple[str, int] | None = None
    stretch, words = "", 0
    for sentence in _SENTENCE_END.split(prose(text)):
        kept = "".join(char if _belongs(char, scripts) else " " for char in sentence)
        stretch, words = f"{stretch} {kept}", words + sum(count_words(kept)[script] for script in scripts)
        if words >= MIN_WORDS:
            if ready is not None:
                yield ready
            ready, stretch, words = (stretch, words), "", 0
    if ready is not None:
        stretch, words = f"{ready[0]} {stretch}", words + ready[1]
    if words:
        yield stretch, words


def _belongs(char: str, scripts: frozenset[str]) -> bool:
    kind = unicodedata.category(char)[0]
    return kind == "M" or char in "'’" or (kind == "L" and script_of(char) in scripts)


def _is_foreign(stretch: str, target: str, others: frozenset[str]) -> bool:
    scores = dict(identifier().rank(" ".join(stretch.split())))
    return max(scores[label] for label in others) - scores[target] > MARGIN
