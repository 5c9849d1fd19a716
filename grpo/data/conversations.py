"""Conversations -> training examples: the model's own chat template, and only the assistant's tokens trained.

Each assistant turn is rendered twice: the messages before it with the generation prompt (what the engine will see) and
the messages up to and including it. What the second adds to the first, up to and including the end token, is trained;
the headers and whatever the template writes after the end token are not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from grpo.data.layouts import read_messages
from grpo.data.templates import render, turn_end
from grpo.errors import UserError
from grpo.types import Message

IGNORE = -100  # the label that no loss counts


@dataclass(frozen=True)
class Example:
    """One sequence. `labels` repeats the id of a trained token and is -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]


Draft = list[tuple[str, bool]]  # the text of one example, in pieces that are tokenised apart: (text, trained?)


def _drafts(messages: list[Message], tokenizer: Any, end: str, where: str) -> list[Draft]:
    """One draft for the conversation; one for each turn where the template rewrites history (strips thinking)."""
    drafts: list[Draft] = []
    written = ""  # the text of the last one
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render(tokenizer, messages[:turn], open_answer=True, where=where)
        whole = render(tokenizer, messages[: turn + 1], open_answer=False, where=where)
        answer = _answer(prompt, whole, end, f"{where}, message {turn}")
        if not drafts or not prompt.startswith(written):
            drafts.append([])
            written = ""
        drafts[-1] += [(prompt[len(written) :], False), (answer, True)]
        written = prompt + answer
    return drafts


def _answer(prompt: str, whole: str, end: str, where: str) -> str:
    if not whole.startswith(prompt):
        raise UserError(
            f"{where}: the chat template does not render this answer after its own generation prompt "
            "(some remove the thinking, or open it); use a template that keeps the answer as it is"
        )
    answer, ended, rest = whole[len(prompt) :].partition(end)
    if not ended or rest.strip():
        problem = f"contains the end token {end}" if ended else "is not ended"
        raise UserError(f"{where}: the answer {problem}; remove it from the data or use another template")
    return answer + end


def build_examples(rows: Iterable[dict[str, Any]], tokenizer: Any, where: str = "data") -> list[Example]:
    """All rows as token ids and labels. A prompt is tokenised apart from its answer, exactly as for generation."""
    _, end = turn_end(tokenizer)
    drafts: list[Draft] = []
    for number, row in enumerate(rows):
        place = f"{where}, row {number}"
        drafts += _drafts(read_messages(row, place), tokenizer, end, place)
    if not drafts:
        raise UserError(f"{where}: no rows")
    texts = [text for draft in drafts for text, _ in draft]
    tokenised = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])  # the template has written its own BOS
    examples = []
    for draft in drafts:
        example = Example([], [])
        for _, trained in draft:
            ids = next(tokenised)
            example.input_ids.extend(ids)
            example.labels.extend(ids if trained else [IGNORE] * len(ids))
        examples.append(example)
    return examples


Part = Literal["answer", "response"]


def response_text(completion: Any, part: Part) -> str:
    """What a reward model reads of a completion (string or messages): the final answer only, or the whole response."""
    text = completion if isinstance(completion, str) else completion[-1]["content"]
    return text.rpartition("</think>")[2].strip() if part == "answer" else text.strip()
