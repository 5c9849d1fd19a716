"""Texts of which parts are trained -> token ids and labels."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any
from unicodedata import normalize

from grpo.data.templates import shared_start
from grpo.errors import UserError, shorten

log = logging.getLogger("grpo")

IGNORE = -100  # the label that no loss counts
Piece = tuple[str, bool]  # a text, and whether it is trained
Draft = tuple[str, list[Piece]]  # where an example is from, and its text


@dataclass(frozen=True)
class Example:
    """One sequence. `labels` repeats the id of a trained token and is -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]


def encode(drafts: Sequence[Draft], tokenizer: Any) -> list[Example]:
    """Each prompt has the ids that generation gives it; what is trained after it has those of the whole text.

    Tokenised apart, it would begin with a blank of its own in tokenizers like Llama's and Mistral's. Where the prompt's
    ids do not begin those of the whole (its last token would merge with the answer's first), each turn is an example
    of its own, in which the answer's ids follow the prompt's as they do when it is sampled.

    Raises:
        UserError: the tokenizer cannot write what is to be trained.
    """
    starts = [list(accumulate(text for text, _ in pieces)) for _, pieces in drafts]
    tokenised = iter(_ids(tokenizer, [text for texts in starts for text in texts]))
    added = _added_tokens(tokenizer)
    examples: list[Example] = []
    merged = 0
    for (where, pieces), texts in zip(drafts, starts, strict=True):
        ids = [next(tokenised) for _ in texts]
        parts = [(pieces, ids)]
        if not _nested(ids):
            merged += 1
            turns = [[(before, False), piece] for before, piece in zip(texts, pieces[1:], strict=False) if piece[1]]
            parts = [(turn, _after(tokenizer, turn[0][0], turn[1][0])) for turn in turns]
        for turn, found in parts:
            examples.append(_example(found, turn))
            _check_labels(found, turn, tokenizer, added, where)
    if merged:
        log.warning(
            "%d of %d conversations: the prompt's last token and the answer's first would be one in the whole text; "
            "trained as they are sampled, one after the other",
            merged,
            len(drafts),
        )
    return examples


def last_trained(examples: Iterable[Example]) -> list[int]:
    """The tokens with which what is trained ends: each has to stop generation."""
    labels = (pair for example in examples for pair in pairwise([*example.labels, IGNORE]))
    return sorted({label for label, following in labels if label != IGNORE and following == IGNORE})


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"]  # the template has written its own BOS


def _nested(ids: Sequence[list[int]]) -> bool:
    """Whether each begins the last."""
    return all(ids[-1][: len(start)] == start for start in ids)


def _example(ids: Sequence[list[int]], pieces: Sequence[Piece]) -> Example:
    """Of the ids of the pieces' text, up to the end of each."""
    labels: list[int] = []
    for start, (_, trained) in zip(ids, pieces, strict=True):
        labels += start[len(labels) :] if trained else [IGNORE] * (len(start) - len(labels))
    return Example(ids[-1], labels)


def _after(tokenizer: Any, prompt: str, text: str) -> list[list[int]]:
    """Ids of a prompt, and of both, the prompt's first."""
    opened, whole = _ids(tokenizer, [prompt, prompt + text])
    return [opened, whole if _nested([opened, whole]) else opened + _continued(tokenizer, text)]


def _continued(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text that goes on after others: without a blank that the tokenizer puts before what it is given."""
    alone = _ids(tokenizer, [text])[0]
    one = _ids(tokenizer, ["a"])[0]
    if _decoded(tokenizer, one + one) == "aa":  # it puts none
        return alone
    for before in ("\n", "a"):
        opened, whole = _ids(tokenizer, [before, before + text])
        if _nested([opened, whole]):
            return whole[len(opened) :]
    return alone


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _added_tokens(tokenizer: Any) -> re.Pattern[str]:
    tokens = sorted({str(token) for token in tokenizer.added_tokens_decoder.values() if str(token).strip()}, key=len)
    return re.compile(rf"(?:(?<!\s)\s+)?({'|'.join(map(re.escape, reversed(tokens)))})\s*" if tokens else r"(\b\B)")


def _check_labels(
    ids: Sequence[list[int]], pieces: Sequence[Piece], tokenizer: Any, added: re.Pattern[str], where: str
) -> None:
    """What is trained reads as it was written, but for blanks at its ends and around added tokens, which may eat them.

    Raises:
        UserError: it does not: characters that the tokenizer does not know, blanks that it loses.
    """
    for (text, trained), start, end in zip(pieces, [[], *ids], ids, strict=False):
        said = _decoded(tokenizer, end[len(start) :]) if trained else text
        said, text = (normalize("NFC", part) for part in (said, text))  # as Qwen's tokenizers read what is the same
        if said == text or added.sub(r"\1", said).strip() == added.sub(r"\1", text).strip():
            continue
        at = len(shared_start(said.lstrip(), text.lstrip()))
        shown = (shorten(repr(part.lstrip()[max(0, at - 20) :]), 60) for part in (said, text))
        raise UserError(f"{where}: the tokenizer writes {' for '.join(shown)}: this text cannot be trained with it")
