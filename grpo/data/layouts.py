"""Layouts of rows -> canonical messages. What holds a conversation, or a part of one, is used or refused by its name.

A row is its turns (`messages`, ShareGPT's `conversations`), a pair of columns, or a text that a chat template wrote.
Beside them may stand a system message, the turns before (`history`) and Alpaca's `input`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from grpo.config.data import DataConfig
from grpo.data.messages import MEDIUM, SPOKEN, TURNS, as_turns, holds, listed_text
from grpo.data.rows import Row, first_present, load_rows
from grpo.data.templates import VARIABLES
from grpo.data.transcripts import read_transcript
from grpo.errors import UserError
from grpo.types import Message

PROMPT_COLUMNS = ("prompt", "question", "problem", "messages", "conversations", "conversation", "instruction", "query")
ASKED = ("prompt", "instruction", "query", "question", "problem", "input")
ANSWERED = ("completion", "response", "output", "solution", "answer")
_FIRST = (("prompt", "completion"), ("prompt", "response"), ("instruction", "response"), ("instruction", "output"))
PAIRS = tuple(dict.fromkeys([*_FIRST, *((asked, answered) for asked in ASKED for answered in ANSWERED)]))
FORMS = "messages, conversations, prompt + completion, instruction + output, question + answer, query + response"
SYSTEM = ("system", "system_prompt")
BELOW = ("input", "context")  # Alpaca's and Dolly's, below the instruction
PASSAGES = ("passage", "paragraph", "article", "story", "body", "background", "premise")
BESIDE = (
    "instruction",
    *BELOW,
    "choices",
    "options",
    "A",
    "starter_code",
    *PASSAGES,
)  # a question's: in its messages, or refused
_BESIDE = ("history", *VARIABLES)  # read by these names alone
THOUGHT = "reasoning_content"  # a column that is trained as the thought before the answer beside it
THOUGHTS = (THOUGHT, "reasoning", "thinking", "think", "thought", "cot", "chain_of_thought", "rationale")
# s1K's deepseek_thinking_trajectory and OpenRouter's reasoning_details too
_THOUGHTS = re.compile(rf"(\w+_)?({'|'.join(THOUGHTS)})(_details|_trajector(y|ies))?")
LABELS = ("label", "is_safe", "kto_tag")  # what is said of an answer by KTO's rows, BeaverTails and LLaMA-Factory
VALID = ("problem_is_valid", "solution_is_valid")  # NuminaMath's
JUDGED = (*LABELS, *VALID, "desirable", "correct", "is_correct", "score", "reward", "weight", "train")
BAD = ("0", "0.0", "false", "no", "unsafe", "undesirable", "rejected", "incorrect", "incomplete", "wrong", "bad")
FEW = 3  # words: what is no longer is a setting ("on"), not a thought
LONG = 8  # characters: a text that is not in another by chance


def read_messages(row: Row, where: str) -> list[Message]:
    """The conversation of a data row, in any of the accepted forms, with its system message and earlier turns.

    >>> read_messages({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, "row 0")
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]
    """
    turns = [name for name in TURNS if holds(row, name) or isinstance(row.get(name), list)]
    asked, answered = next((pair for pair in PAIRS if all(row.get(name) is not None for name in pair)), ("", ""))
    if turns:
        messages = as_turns(row[turns[0]], "", where, turns[0])
        beside: tuple[str, ...] = ()
        for other in [*turns[1:], *([asked] if asked else [])]:
            if not _within(_questions(row[other], where, other), messages):
                raise UserError(f"{where}: '{turns[0]}' and '{other}' are two conversations: remove or rename one")
    elif asked:
        messages = as_turns(with_input(row, row[asked], asked), "user", where, asked)
        answer = as_turns(row[answered], "assistant", where, answered)
        if holds(row, THOUGHT) and not answer[-1].get(THOUGHT):
            answer[-1] = {**answer[-1], THOUGHT: row[THOUGHT]}
        messages += answer
        beside = ASKED
    elif isinstance(row.get("text"), str) and read_transcript(row["text"], f"{where}: 'text'"):
        messages, beside = as_turns(row["text"], "", where, "text"), ()
    else:
        raise UserError(f"{where}: expected {FORMS} (it has: {', '.join(row) or 'nothing'}); data.columns renames")
    messages = with_context(row, messages, where, (*beside, *_thoughts(row)))
    for message in messages:
        own = _thoughts(message)
        rest = {name: value for name, value in message.items() if name in SPOKEN or name not in own}
        if lost := [name for name in own if not _within(_prose(message[name]), [rest])]:
            raise UserError(f"{where}: a message's '{lost[0]}' would be lost: call it {THOUGHT}")
    _check_worth(row, where)
    if not any(message["role"] == "assistant" for message in messages):
        raise UserError(f"{where}: no assistant message, nothing to train on")
    if messages[0]["role"] == "assistant":
        raise UserError(f"{where}: the conversation starts with the assistant; put a user message before it")
    return messages


def _check_worth(row: Row, where: str) -> None:
    """
    Raises:
        UserError: the row says of itself that it is not to be learnt from, or only a little.
    """
    for name in (name for name in row if _plain(name) in JUDGED):
        bad = str(row.get(name)).strip().lower() in BAD
        if bad or (name == "weight" and row.get(name) not in (None, 1)):
            what = f"says that this answer is bad ({row[name]!r})" if bad else f"is {row[name]!r}"
            raise UserError(
                f"{where}: column '{name}' {what}, and all rows are trained on alike: remove the row, or say with "
                f"data.columns {{unused: {name}}} that it is not meant so"
            )


def read_prompt(row: Row, where: str, *, as_text: bool = False) -> tuple[str, str | list[Message]]:
    """(the column that holds the prompt, the prompt): a text, or messages when it was given so or has turns before it.

    The assistant's last turn of a conversation is what is to be learnt, no part of the prompt. `as_text`: for a
    plain-text template, which wants nothing else.
    """
    column, value = first_present(row, [name for name in PROMPT_COLUMNS if not _is_blank(row.get(name))])
    if column is None and (empty := [name for name in PROMPT_COLUMNS if name in row]):
        raise UserError(f"{where}: '{empty[0]}' is empty")
    if column is None:
        wanted, more = " | ".join(PROMPT_COLUMNS[:4]), ", ".join(PROMPT_COLUMNS[4:])
        has = f"(it has: {', '.join(row) or 'nothing'}); also read: {more}; data.columns renames"
        raise UserError(f"{where}: no column {wanted} {has}")
    value = with_input(row, value, column) if column in ("instruction", "query") else value
    listed = isinstance(value, str) and (listed_text(value) is not None or column in TURNS)
    read = read_transcript(value, f"{where}: '{column}'") if isinstance(value, str) and not as_text else None
    if isinstance(value, str) and not listed and read is None:
        messages = with_context(row, [{"role": "user", "content": value}], where)
        prompt: str | list[Message] = value if len(messages) == 1 else messages
    else:
        opened = read[1] if read else ""
        messages = as_turns(value, "", where, column) if not opened else []
        last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
        if opened or (last and (column not in TURNS or _begun(last))):
            raise UserError(
                f"{where}: '{column}' ends in what the assistant has begun to say, and its answer cannot go on from "
                "there: end it with the user's message, or give the text, with data.template: '{prompt}'"
            )
        messages = messages[:-1] if last else messages
        if not messages:
            raise UserError(f"{where}: '{column}' has no message before the assistant's")
        prompt = with_context(row, messages, where)
        if messages[-1]["role"] == "user" and _is_blank(messages[-1]["content"]):
            raise UserError(f"{where}: '{column}' ends in a message that is empty")
    if as_text and holds(row, "tools"):
        raise UserError(f"{where}: column 'tools' is for a chat template, and data.template is none")
    if as_text and not isinstance(prompt, str):
        raise UserError(f"{where}: '{column}' holds messages, but 'template' wants a string")
    return column, prompt


def _begun(message: Message) -> bool:
    """The beginning of an answer: nothing, an opening tag, or marked as Mistral's and DeepSeek's interfaces do."""
    begun = any(message.get(name) for name in ("prefix", "prefill", "partial"))
    return begun or (message["content"].strip() in ("", "<think>") and not any(message.get(name) for name in SPOKEN))


def with_input(row: Row, asked: Any, column: str) -> Any:
    """Alpaca's `input`, or Dolly's `context`, below its instruction."""
    names = BELOW if column == "instruction" else () if column == "input" else BELOW[:1]
    texts = [row[name] for name in names if holds(row, name) and isinstance(row[name], str)]
    return "\n\n".join([asked, *texts]) if isinstance(asked, str) else asked


def with_context(row: Row, messages: list[Message], where: str, more: Sequence[str] = ()) -> list[Message]:
    """The messages after the row's system message and earlier turns, each once. `more`: columns that must be in them.

    Raises:
        UserError: something that belongs to a conversation is in a column of its own, and not in the messages.
    """
    first = 1 if messages[0]["role"] in ("system", "developer") else 0
    if holds(row, "history"):
        earlier = _history(row["history"], where)
        if messages[first : first + len(earlier)] != earlier:
            messages = [*messages[:first], *earlier, *messages[first:]]
    for name in SYSTEM:
        if holds(row, name) and not first:
            messages, first = [*as_turns(row[name], "system", where, name), *messages], 1
    lost = [name for name in SYSTEM if holds(row, name) and not _within([row[name]], messages[:1])]
    lost += [name for name in (*BESIDE, *more) if holds(row, name) and not _within([row[name]], messages)]
    lost += [name for name in row if (name == "functions" or MEDIUM.fullmatch(_plain(name))) and holds(row, name)]
    ours = {*SYSTEM, *BESIDE, *more, *_BESIDE}
    cased = [name for name in row if name not in ours and _plain(name) in ours and holds(row, name)]
    lost += [name for name in cased if not _within([row[name]], messages)]
    if lost:
        name, plain = lost[0], _plain(lost[0])
        what = "is not text" if MEDIUM.fullmatch(plain) else "is no part of the messages made of this row"
        put = "put it into the messages"
        if _THOUGHTS.fullmatch(plain) and name != THOUGHT:
            put = f"train it as the thought with data.columns {{{THOUGHT}: {name}}}"
        elif name in cased and plain in (*SYSTEM, *_BESIDE):
            put = f"give it its name with data.columns {{{plain}: {name}}}"
        raise UserError(
            f"{where}: column '{name}' {what}: nothing would see it; {put}, or say with "
            f"data.columns {{unused: {name}}} that it is not meant to be seen"
        )
    return messages


def _history(value: Any, where: str) -> list[Message]:
    """Earlier turns: Alpaca's [question, answer] pairs, or messages."""
    value = (listed_text(value, of=list) or value) if isinstance(value, str) else value
    if isinstance(value, (list, tuple)) and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value):
        roles = ("user", "assistant")
        value = [{"role": role, "content": text} for pair in value for role, text in zip(roles, pair, strict=True)]
    return as_turns(value, "", where, "history")


def _questions(value: Any, where: str, column: str) -> list[str]:
    """What is asked in a column; the answers may differ, as those sampled to the questions of a data set do."""
    try:
        return [turn["content"] for turn in as_turns(value, "user", where, column) if turn["role"] != "assistant"]
    except UserError:
        return [str(value)]


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def unseen(row: Row, messages: list[Message]) -> list[str]:
    """The columns with a text, of several words, that neither a message nor the template gets."""
    return [name for name, value in row.items() if name not in VARIABLES and not _within(_prose(value), messages)]


def _thoughts(fields: Row) -> list[str]:
    """The columns, or the fields of a message, that hold a thought by their names."""
    return [name for name, value in fields.items() if _THOUGHTS.fullmatch(_plain(name)) and _prose(value)]


@lru_cache(1000)
def _plain(name: str) -> str:
    """A name as ours are written.

    >>> [_plain(name) for name in ("Body", "System Prompt", "starterCode", "Complex_CoT")]
    ['body', 'system_prompt', 'starter_code', 'complex_cot']
    """
    return re.sub(r"[\s-]+|(?<=[a-z])(?=[A-Z][a-z])", "_", name.strip()).lower()


def _prose(value: Any) -> list[str]:
    """The texts of several words in a value."""
    return [text for text in _strings([value]) if len(text.split()) > FEW]


def _within(values: Iterable[Any], messages: list[Message]) -> bool:
    """Whether all the text of some values occurs in messages; a short one by whole words."""
    texts = list(_strings([list(message.values()) for message in messages]))
    whole, words = "\n".join(texts), f" {_words(texts)} "
    for text in _strings(list(values)):
        own = _words([text])
        by_word = own and f" {own} " in words
        if not by_word and (text.strip() not in whole or (own and len(text) < LONG)):
            return False
    return True


def _words(texts: Iterable[str]) -> str:
    return " ".join(word for text in texts for word in re.findall(r"\w+", text))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):  # of a message its text, not its role
        yield from _strings([item for key, item in value.items() if key not in ("role", "from", "type")])
    elif value is not None:
        yield str(value)


def conversation_rows(data: DataConfig) -> list[Row]:
    """Rows to train on; `data.system` is put before conversations that have no system message."""
    rows = load_rows(data)
    for number, row in enumerate(rows) if data.system else ():
        messages = read_messages(row, "data")
        if messages[0]["role"] not in ("system", "developer"):
            rows[number] = {**row, "messages": [{"role": "system", "content": data.system}, *messages]}
    return rows
