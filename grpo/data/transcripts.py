"""Conversations written out as one text: ChatML, and the "Human: ... Assistant: ..." of hh-rlhf.

They are read only where the whole text is one; what begins like another template's text is refused, since a chat
template would wrap it a second time.
"""

from __future__ import annotations

import re

from grpo.errors import UserError
from grpo.types import Message

_BOS = r"<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>|<｜begin▁of▁sentence｜>"
_CHATML = re.compile(r"<\|im_start\|>(?P<role>\w+)\n(?P<said>.*?)(?:(?P<end><\|im_end\|>)\s*|\Z)", re.DOTALL)
_TURNS = re.compile(r"\n\n(Human|Assistant): ?")
_TEMPLATED = re.compile(
    rf"\s*(?:(?:{_BOS})\s*)?(<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<\|turn>|\[INST\]|\[SYSTEM_PROMPT\]|<\|start\|>"
    r"|<\|(?:system|user|assistant)\|>|<｜(?:User|Assistant)｜>|<\|(?:START_OF_TURN|START_OF_ROLE|start_of_role)[^>]*>)"
)


def read_transcript(text: str, where: str) -> tuple[list[Message], str] | None:
    """(the messages, what the assistant has begun to say at the end); None: this is a text like any other.

    Raises:
        UserError: it begins like the text of a chat template that is not read here, or does not go on like it.

    >>> read_transcript("<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n", "row 0")
    ([{'role': 'user', 'content': 'Hi'}], '')
    """
    if text.startswith("\n\nHuman:"):
        _, *parts = _TURNS.split(text)
        roles = ["user" if role == "Human" else "assistant" for role in parts[::2]]
        messages = [{"role": role, "content": said.strip()} for role, said in zip(roles, parts[1::2], strict=True)]
        open_answer = messages[-1]["role"] == "assistant" and not messages[-1]["content"]
        return (messages[:-1] if open_answer else messages), ""
    begins = _TEMPLATED.match(text)
    if begins is None:
        return None
    body, messages, opened, end = text[begins.start(1) :], list[Message](), "", 0
    while turn := _CHATML.match(body, end):
        end = turn.end()
        if turn["end"]:
            messages.append({"role": turn["role"], "content": turn["said"]})
        elif turn["role"] == "assistant":
            opened = turn["said"].strip()
        else:  # of the user, and not ended
            end = -1
            break
    if end < len(body) or not messages or any("<|im_start|>" in said["content"] for said in messages):
        raise UserError(
            f"{where} is in the form of a chat template already ({begins[1]}), and would be wrapped in another: give "
            "messages, or take the text as it is with data.template: '{prompt}'"
        )
    return messages, opened
