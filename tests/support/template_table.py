"""The table of docs/templates.md: `PYTHONPATH=.:tests python -m support.template_table`, with the real data at hand."""

import logging
import re
from pathlib import Path
from typing import Any

from benchmarks.real_data import data_folder
from grpo.data.baked import give_template
from grpo.data.conversations import build_examples
from grpo.data.encoding import IGNORE, Example
from grpo.data.turns import Template
from grpo.errors import UserError
from support.chat import assistant, user
from support.templates import byte_tokenizer, shipped

THOUGHT, ANSWER = "I look twice", "It is 42"
INLINE = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"
CALL = {"id": "call00001", "type": "function", "function": {"name": "add", "arguments": {"num": 17, "text": "twelve"}}}
_PARAMETERS = {"num": {"type": "integer", "description": "n"}, "text": {"type": "string", "description": "t"}}
_SCHEMA = {"type": "object", "properties": _PARAMETERS, "required": ["num"]}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": _SCHEMA}}]
_CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
_REPLY = {"role": "tool", "content": "29", "name": "add", "tool_call_id": "call00001"}

# What the assistant says in each turn, to be found in the labels of the turn, once each.
CASES: dict[str, tuple[dict[str, Any], list[list[str]]]] = {
    "answer": ({"messages": [user("Q one"), assistant(ANSWER)]}, [[ANSWER]]),
    "turns": (
        {"messages": [user("Q one"), assistant(ANSWER), user("Q two"), assistant("Yes, so")]},
        [[ANSWER], ["Yes, so"]],
    ),
    "inline": ({"messages": [user("Q one"), assistant(INLINE)]}, [[THOUGHT, ANSWER]]),
    "reasoning": ({"messages": [user("Q one"), assistant(ANSWER) | {"reasoning": THOUGHT}]}, [[THOUGHT, ANSWER]]),
    "thoughts": (
        {"messages": [user("Q one"), assistant(INLINE), user("Q two"), assistant("<think>Twice</think>Yes, so")]},
        [[THOUGHT, ANSWER], ["Twice", "Yes, so"]],
    ),
    "calls": (
        {"messages": [user("Q one"), _CALLED, _REPLY, assistant(ANSWER)], "tools": TOOLS},
        [["17", "twelve"], [ANSWER]],
    ),
    "system": ({"messages": [{"role": "system", "content": "Be kind"}, user("Q"), assistant(ANSWER)]}, [[ANSWER]]),
}  # fmt: skip


def templates() -> dict[str, str]:
    """Those of TRL's package, and the shipped ones where the real data is at hand."""
    import trl

    found = {f"trl/{name}": text for name, text in shipped(Path(trl.__file__).parent / "chat_templates").items()}
    folder = data_folder()
    return {name: text for name, text in found.items() if "training" not in name} | (
        shipped(folder / "templates") if folder else {}
    )


def examples_of(template: str, case: str) -> tuple[Any, list[Example], bool]:
    """(tokenizer, examples, whether thinking had to be turned on).

    Raises:
        UserError: the conversation is refused.
    """
    row = CASES[case][0]
    tokenizer = byte_tokenizer(template)
    try:
        return tokenizer, build_examples([row], tokenizer), False
    except UserError as error:
        if "closes the thought" not in str(error):
            raise
        give_template(tokenizer, None, {Template(tokenizer, {}).switch: True})
        return tokenizer, build_examples([row], tokenizer), True


def stretches(tokenizer: Any, examples: list[Example]) -> list[str]:
    """What is trained, turn by turn."""
    parts: list[list[int]] = [[]]
    for example in examples:
        for label in [*example.labels, IGNORE]:
            if label != IGNORE:
                parts[-1].append(label)
            elif parts[-1]:
                parts.append([])
    return [tokenizer.decode(part) for part in parts if part]


def outcome(template: str, case: str) -> str:
    try:
        *_, switched = examples_of(template, case)
    except UserError as error:
        reason = re.sub(
            r".*chat template (refuses this conversation: |cannot train this message: it )?", "", str(error)
        )
        return f"no: {re.split(r'[;:] | of column|, which ends| .[(]', reason)[0]}"
    return "thinking on" if switched else "yes"


def table() -> list[str]:
    rows = ["| template | an answer | with reasoning | tool calls |", "|---|---|---|---|"]
    for name, text in sorted(templates().items()):
        cells = [outcome(text, case).replace("|", "\\|") for case in ("answer", "inline", "calls")]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    print("\n".join(table()))
