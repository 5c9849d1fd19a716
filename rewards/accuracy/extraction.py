r"""Where the final answer stands in a completion, or in a gold solution.

Policy: if ``</think>`` occurs only the text after the last one counts; a thought that never closes has no answer.
Then, in this order: the last non-empty ``\boxed{}``, the last ``#### ...``, the last ``<answer>...</answer>``, the last
phrase that gives an answer ("the answer is ...", "Answer: ...", then "the result is ...", then "A: ..."), and a text
that is nothing but the letter of a choice. A box that is empty or cut off after another one takes the answer back.
Boxes joined only by commas, "and" or space at the very end form one answer; boxes joined by "or" or "/" are
alternatives, which score 0. A number that stands anywhere else is not an answer, unless `anywhere` is asked for: then,
where none of these places holds one, the last formula counts, or else the last number, or else the last lone letter A
to J; for base models, which know no format. Every scan is linear in the length of the text.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from grpo.data.golds import after_hashes, find_boxes, last_boxes, read_gold
from grpo.data.rows import is_nothing
from grpo.data.said import after_thought
from rewards.accuracy.choices import choice
from rewards.accuracy.normalise import plain
from rewards.accuracy.phrases import clause, last_phrase, without_math_marks

Strict = bool | Literal["box", "answer"]  # True is "box"

_OPENED_BOX = re.compile(r"(?<!\\)\\+(?:boxed|fbox)\s*\{")
_MENTIONED = re.compile(
    r"\s*(?:\\text\{)?\s*(?:(?:your|the|final|correct) )*answer(?: here)?\s*\}?\s*|\.\.\.|…|\\[lc]?dots"
)
_ANSWER_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_MATH_CHUNK = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_LOOSE_NUMBER = re.compile(
    r"(?<![A-Za-z0-9.,^])[-−]?[$€£¥]?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+|/\d+)?%?"
)  # also within "共13只"
_LETTER = re.compile(r"(?<!not )(?<!non )(?<!不是)(?<!不是 )(?<![A-Za-z0-9'])[A-J](?![A-Za-z0-9'])")
_LISTED = re.compile(r"^[*_ \t]*\(?[A-J][).:]\*{0,2} \S.{0,100}$", re.MULTILINE)  # one option, with its text
_BETWEEN_PRICES = re.compile(r"^[?!.,;:]|\s(?:or|and|to)\s*$")  # of "$5 or $6" it is "5 or"
_MAX_CHOICE = 300  # characters of a completion that is a choice and nothing else


def extract_answer(text: str, strict: Strict = False, anywhere: bool = False) -> str | None:
    """The final answer in `text`, or None.

    Args:
        text: a completion, with the opening tag of its thought where the template wrote that.
        strict: True or "box" reads only the box, "answer" only the tag.
        anywhere: where no place for an answer holds one, read the last formula, number or lone letter.
    """
    after = after_thought(text)
    if after.rstrip().endswith("####") or (after.rfind("<answer>") > after.rfind("</answer>") >= 0 and _is_cut(after)):
        return None
    if strict == "answer":
        return _last_tag(after)
    boxed, taken_back = _last_box(after)
    if boxed is not None or strict or taken_back:
        return boxed
    for find in (_last_hashes, _last_tag, last_phrase, _lone_choice):
        found = find(after)
        if found is not None:
            return found
    return _last_anywhere(after) if anywhere else None


def read_golds(gold: Any) -> list[str]:
    r"""The acceptable answers of a gold of any shape: number, text, solution that ends in a box, ``#### 42`` or "The
    answer is 42", list of those.

    Empty when there is none. Whether each can be understood is for `rewards.accuracy.equality` to say.
    """
    gold = gold.tolist() if hasattr(gold, "tolist") else gold  # numpy's
    if isinstance(gold, (list, tuple)):
        return [text for item in gold for text in read_golds(item)]
    if isinstance(gold, (int, float, str)) and not is_nothing(gold):
        text = str(gold).strip()
        found = read_gold(text)
        found = _last_tag(text) or last_phrase(text) or text if found == text else found
        return [found] if found else []
    return []


def _last_box(text: str) -> tuple[str | None, bool]:
    """(content of the last box, whether a later one, empty or cut off, took it back)."""
    openings = [match.start() for match in _OPENED_BOX.finditer(text)]
    if not openings:
        return last_boxes(text), False
    boxes = find_boxes(text)
    if not boxes:  # named only (\boxed{}), or cut off
        return None, text[openings[-1] :].count("{") > text[openings[-1] :].count("}")
    if openings[-1] >= boxes[-1][1]:
        return None, True
    found = last_boxes(text)
    return (None, False) if found is None or _MENTIONED.fullmatch(found) else (found, False)


def _is_cut(text: str) -> bool:
    """Whether it ends in a tag that is begun anew; not in talk about "the <answer> tags"."""
    return re.match(r"`| tags?\b", text[text.rfind("<answer>") + len("<answer>") :]) is None


def _last_hashes(text: str) -> str | None:
    found = after_hashes(text)
    return clause(found[-1]) if found else None


def _last_tag(text: str) -> str | None:
    found = _ANSWER_TAG.findall(text)
    if not found:
        return None
    content = found[-1].strip()
    return last_boxes(content) or last_phrase(content) or without_math_marks(content) or None


def _lone_choice(text: str) -> str | None:
    """The choice that the text, or its last line, is and nothing else."""
    text = text.strip()
    if len(text) <= _MAX_CHOICE and "\n" not in text and choice(plain(text)) is not None:
        return text
    last = text[-20:].rpartition("\n")[2]
    if re.fullmatch(r"[*_ (\[]*[A-J][)\].*_ ]*", last) and last != text[-20:]:
        return last
    listed = list(_LISTED.finditer(text))
    return text[listed[0].start() :] if len(listed) == 1 and "\n" not in text[listed[0].start() :] else None


def _last_anywhere(text: str) -> str | None:
    chunks = [part.strip() for found in _MATH_CHUNK.findall(text) for part in found]
    formulas = [chunk for chunk in chunks if chunk and not _BETWEEN_PRICES.search(chunk)]
    for found in (formulas, _LOOSE_NUMBER.findall(text), _LETTER.findall(text)):
        if found:
            return str(found[-1])
    return None
