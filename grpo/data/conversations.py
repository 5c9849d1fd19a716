"""Conversations -> training examples: the model's own chat template, and only the assistant's tokens trained.

Of each assistant turn, the messages before it with the generation prompt are what the engine will see; what
`grpo.data.turns` finds after it, up to and including the end token, is trained. Headers and whatever the template
writes after the end token are not.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from grpo.data.encoding import IGNORE as IGNORE
from grpo.data.encoding import Example as Example
from grpo.data.encoding import Piece, encode
from grpo.data.layouts import read_messages
from grpo.data.said import after_thought, is_trained
from grpo.data.templates import row_variables
from grpo.data.turns import Template, bare, build_turn, told
from grpo.errors import UserError
from grpo.types import Message

log = logging.getLogger("grpo")


def build_examples(rows: Iterable[dict[str, Any]], tokenizer: Any, where: str = "data") -> list[Example]:
    """All rows as token ids and labels: the prompts as generation has them, and all that the assistant said.

    Raises:
        UserError: a row that is no conversation, or of which something would be lost; it says which, and what.
    """
    templates: dict[str, Template] = {}
    drafts: list[tuple[str, list[Piece]]] = []
    for number, row in enumerate(rows):
        place = f"{where}, row {number}"
        variables = row_variables(row, place)
        kind = repr({name: value if name not in ("tools", "documents") else None for name, value in variables.items()})
        template = templates.setdefault(kind, Template(tokenizer, variables))
        drafts += [(place, draft) for draft in _drafts(read_messages(row, place), variables, template, place)]
    if not drafts:
        raise UserError(f"{where}: no rows")
    if any(template.borrowed for template in templates.values()):
        log.warning("%s: written with TRL's training template of this family; the model keeps its own", where)
    return encode(drafts, tokenizer)


def _drafts(
    messages: list[Message], variables: dict[str, Any], template: Template, where: str
) -> Iterator[list[Piece]]:
    """One draft for the conversation; one for each turn where the template rewrites history (strips thinking)."""
    history: list[Message] = []
    draft: list[Piece] = []
    written = ""  # the text of the draft
    for number, message in enumerate(messages):
        place = f"{where}, message {number}"
        if message["role"] != "assistant":
            history.append(bare(message))
            continue
        if not is_trained(message, place):
            history.append(told(template, history, message, variables, place))
            continue
        turn = build_turn(template, history, message, variables, place)
        history.append(turn.message)
        if not turn.prompt.startswith(written):
            yield draft
            draft, written = [], ""
        draft += [(turn.prompt[len(written) :], False), (turn.text, True)]
        written = turn.prompt + turn.text
    if not draft:
        raise UserError(f"{where}: no assistant message is to be trained")
    yield draft


Part = Literal["answer", "response"]


def response_text(completion: Any, part: Part, prefill: str = "") -> str:
    """What a reward model or a judge reads of a completion (string or messages): the final answer only (empty when its
    thinking was cut, which `prefill` may have opened), or the whole response."""
    text = completion if isinstance(completion, str) else completion[-1]["content"]
    return (after_thought(text, prefill) if part == "answer" else text).strip()
