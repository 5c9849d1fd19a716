"""Whether a teacher reads what a student samples: the same tokens, by text and id, and the same prompts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from grpo.data.prompts import chat_text
from grpo.data.templates import turn_end
from grpo.errors import UserError, shorten
from grpo.model.loading.tokenizer import PROBE
from grpo.types import Prompt

COMPARED = 20  # prompts of a task


def check_same_tokens(student: Any, teacher: Any, name: str) -> None:
    """
    Raises:
        UserError: the tokenizers differ in a token, its id, or how a text is cut into them.
    """
    own, other = student.get_vocab(), teacher.get_vocab()
    differing = sorted(token for token in own.keys() | other.keys() if own.get(token) != other.get(token))
    if differing:
        token = differing[0]
        how = f"{shorten(repr(token))} is {_id(own, token)} for the student and {_id(other, token)} for the teacher"
        _refuse(name, f"{how}, and {len(differing)} tokens differ in all")
    if student(PROBE)["input_ids"] != teacher(PROBE)["input_ids"]:
        _refuse(name, "the two cut the same text into other tokens")


def check_same_prompts(student: Any, teacher: Any, prompts: Iterable[Prompt], name: str) -> None:
    """A teacher reads the prompts as the student's chat template writes them, so its own has to write the same.

    Raises:
        UserError: it writes another text, or ends an answer otherwise.
    """
    told = [prompt for prompt in prompts if prompt.messages is not None][:COMPARED]
    for prompt in told:
        if chat_text(prompt.messages or [], prompt.columns, teacher, f"the teacher '{name}'")[0] != prompt.text:
            _refuse(name, f"its chat template writes the prompt '{prompt.id}' otherwise than the student's")
    if told and turn_end(student) != turn_end(teacher):
        own, other = (text for _, text in map(turn_end, (student, teacher)))
        _refuse(name, f"the student's template ends an answer with {own}, the teacher's with {other}")


def _id(vocabulary: dict[str, int], token: str) -> str:
    return str(vocabulary.get(token, "no token"))


def _refuse(name: str, why: str) -> None:
    raise UserError(
        f"loss.distill: the teacher '{name}' cannot score what this student samples: {why}; take a teacher with the "
        "student's tokenizer and template, or train the student on its answers alone (stage student)"
    )
