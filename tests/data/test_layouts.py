"""What people's rows look like -> the messages made of them, or the line that refuses them. Nothing is lost."""

import json
from typing import Any

import numpy as np
import pytest

from grpo.config.data import DataConfig
from grpo.data.layouts import conversation_rows, read_messages, read_prompt, unseen
from grpo.data.prompts import build_prompts, canonical_answer, chat_prompts
from grpo.data.rows import load_rows, write_jsonl
from grpo.errors import UserError
from rewards.accuracy.extraction import read_golds
from support.chat import assistant, system, user
from support.models import CHAT_TEMPLATE, make_tokenizer

Q, A = user("Q"), assistant("A")
TALK = [Q, A]
SYSTEM = [system("S"), Q, A]
LONGER = [user("Q0"), assistant("A0"), Q, A]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
CALLING = [Q, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "3"}, A]


def gpt(*turns: str, **more: Any) -> dict[str, Any]:
    """ShareGPT's form."""
    pairs = zip(turns[::2], turns[1::2], strict=True)
    return {"conversations": [{"from": role, "value": text} for role, text in pairs], **more}


def chatml(*turns: str) -> str:
    return "".join(
        f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in zip(turns[::2], turns[1::2], strict=True)
    )


CONVERSATIONS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "messages": ({"messages": TALK}, TALK),
    "system message": ({"messages": SYSTEM}, SYSTEM),
    "a table's empty cells": ({"messages": [{**Q, "name": None, "tool_calls": None}, A]}, TALK),
    "further fields stay": ({"messages": [Q, {**A, "weight": 0, "reasoning_content": "r"}]},
                            [Q, {**A, "weight": 0, "reasoning_content": "r"}]),
    "roles in capitals": ({"messages": [{**Q, "role": "User"}, {**A, "role": "ASSISTANT"}]}, TALK),
    "parts of text": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, A]}, TALK),
    "messages in JSON": ({"messages": json.dumps(TALK)}, TALK),
    "ShareGPT": (gpt("human", "Q", "gpt", "A"), TALK),
    "ShareGPT's system": (gpt("system", "S", "human", "Q", "gpt", "A"), SYSTEM),
    "system beside ShareGPT": (gpt("human", "Q", "gpt", "A", system="S"), SYSTEM),
    "system prompt beside messages": ({"messages": TALK, "system_prompt": "S"}, SYSTEM),
    "the same system twice": ({"messages": SYSTEM, "system": "S"}, SYSTEM),
    "empty system": (gpt("human", "Q", "gpt", "A", system=""), TALK),
    "conversations of messages": ({"conversations": TALK}, TALK),
    "conversations in JSON": ({"conversations": json.dumps([{"from": "human", "value": "Q"}, A])}, TALK),
    "ShareGPT's calls": (gpt("human", "Q", "function_call", '{"name": "add", "arguments": {"a": 1}}',
                             "observation", "3", "gpt", "A"), CALLING),
    "OpenAI's old calls": ({"messages": [Q, {"role": "assistant", "content": None,
                            "function_call": {"name": "add", "arguments": '{"a": 1}'}},
                            {"role": "function", "content": "3"}, A]}, CALLING),
    "calls without content": ({"messages": [Q, {"role": "assistant", "content": None, "tool_calls": [CALL]},
                               {"role": "tool", "content": "3"}, A]}, CALLING),
    "tools beside": ({"messages": TALK, "tools": [{"type": "function"}]}, TALK),
    "prompt + completion": ({"prompt": "Q", "completion": "A"}, TALK),
    "lists of both": ({"prompt": [system("S"), Q], "completion": [A]}, SYSTEM),
    "system + prompt + response": ({"system": "S", "prompt": "Q", "response": "A"}, SYSTEM),
    "Alpaca": ({"instruction": "Q", "input": "", "output": "A"}, TALK),
    "Alpaca's input": ({"instruction": "Q", "input": "I", "output": "A"}, [user("Q\n\nI"), A]),
    "Alpaca's system and history": ({"instruction": "Q", "output": "A", "system": "S", "history": [["Q0", "A0"]]},
                                    [system("S"), *LONGER]),
    "history of messages": ({"prompt": "Q", "response": "A", "history": [user("Q0"), assistant("A0")]}, LONGER),
    "history in JSON": ({"instruction": "Q", "output": "A", "history": '[["Q0", "A0"]]'}, LONGER),
    "Dolly": ({"instruction": "Q", "context": "C", "response": "A", "category": "x"}, [user("Q\n\nC"), A]),
    "query + response": ({"query": "Q", "response": "A"}, TALK),
    "question + answer": ({"question": "Q", "answer": "A"}, TALK),
    "MATH: the solution, not its answer": ({"problem": "Q", "solution": "A", "answer": "1"}, TALK),
    "input + output": ({"input": "Q", "output": "A"}, TALK),
    "input of messages": ({"input": [Q], "output": "A"}, TALK),
    "ChatML": ({"text": chatml("user", "Q", "assistant", "A")}, TALK),
    "ChatML with a system": ({"text": chatml("system", "S", "user", "Q", "assistant", "A")}, SYSTEM),
    "UltraChat: the prompt again": ({"prompt": "Q", "prompt_id": "1", "messages": TALK}, TALK),
    "of rejection sampling": ({"problem": "Q", "solution": "long", "answer": "1", "messages": [user("Q\nBox it."), A]},
                              [user("Q\nBox it."), A]),
    "sampled to the questions of a set": (gpt("human", "Q", "gpt", "B", messages=TALK), TALK),
    "sampled to a templated prompt": ({"prompt": chatml("user", "Q"), "solution": "long", "messages": TALK}, TALK),
    "two forms of the same": (gpt("human", "Q", "gpt", "A", instruction="Q", output="A"), TALK),
}  # fmt: skip


@pytest.mark.parametrize(("row", "messages"), CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_conversations(row, messages):
    assert read_messages(row, "row 0") == messages


CONVERSATIONS |= {
    "the thought in two fields": ({"messages": [Q, {**A, "reasoning": "one and one is two", "reasoning_details": [
                                   {"type": "reasoning.text", "text": "one and one is two"}]}]},
                                  [Q, {**A, "reasoning": "one and one is two", "reasoning_details": [
                                   {"type": "reasoning.text", "text": "one and one is two"}]}]),
    "a good answer": ({"prompt": "Q", "response": "A", "is_safe": True, "label": 1, "score": 3.5, "weight": 1}, TALK),
    "a thought in a column": ({"question": "Q", "reasoning_content": "one and one is two", "answer": "A"},
                              [Q, {**A, "reasoning_content": "one and one is two"}]),
    "a thought that the answer holds": ({"question": "Q", "reasoning": "one and one is two", "answer":
                                         "<think>one and one is two</think>A"},
                                        [Q, assistant("<think>one and one is two</think>A")]),
    "reasoning as a setting": ({"messages": TALK, "reasoning": "on", "image": None, "images": []}, TALK),
    "the question in two columns": ({"prompt": "Q", "question": "Q", "completion": "A", "instruction": "Q"}, TALK),
}  # fmt: skip
PAIR = {"prompt": "Q", "completion": "A"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "KTO's label": ({**PAIR, "label": False}, "column 'label' says that this answer is bad (False)"),
    "KTO's label in a table": ({**PAIR, "label": "0"}, "column 'label' says"),
    "LLaMA-Factory's label": ({"messages": TALK, "kto_tag": False}, "column 'kto_tag' says"),
    "BeaverTails": ({"prompt": "Q", "response": "A", "is_safe": False}, "column 'is_safe' says"),
    "a score of nothing": ({**PAIR, "score": 0.0}, "column 'score' says"),
    "a wrong trace": ({"messages": TALK, "correct": False}, "column 'correct' says"),
    "a row without weight": ({"messages": TALK, "weight": 0}, "column 'weight' says"),
    "a half row": ({"messages": TALK, "weight": 0.5}, "column 'weight' is 0.5"),
    "a capital": ({**PAIR, "Label": "0"}, "column 'Label' says that this answer is bad ('0')"),
    "capitals": ({**PAIR, "isCorrect": False}, "column 'isCorrect' says that this answer is bad (False)"),
    "a thought with a capital": ({"question": "Q", "Complex_CoT": "one and one is two", "answer": "A"},
                                 "train it as the thought with data.columns {reasoning_content: Complex_CoT}"),
    "a question with a capital": ({"prompt": "You help.", "Question": "Q", "response": "A"}, "'Question' is no part"),
    "a thought by another name": ({"messages": [Q, {**A, "thought": "one and one is two"}]},
                                  "a message's 'thought' would be lost: call it reasoning_content"),
    "OpenRouter's details": ({"messages": [Q, {**A, "reasoning_details": [{"type": "reasoning.text", "text":
                              "one and one is two"}]}]}, "'reasoning_details' would be lost"),
    "NuminaMath's invalid": ({**PAIR, "solution_is_valid": "No"}, "column 'solution_is_valid' says"),
    "s1K": ({"question": "Q", "solution": "7", "thinking_trajectories": ["one and one is two"]},
            "with data.columns {reasoning_content: thinking_trajectories}"),
    "s1K-1.1": ({"question": "Q", "solution": "7", "deepseek_thinking_trajectory": "one and one is two"}, "with data"),
    "APPS": ({"question": "Q", "starter_code": "def f(x):", "solution": "pass"}, "'starter_code'"),
    "a thought beside a pair": ({"question": "Q", "cot": "one and one is two", "answer": "A"},
                                "train it as the thought with data.columns {reasoning_content: cot}"),
    "a thought beside messages": ({"messages": TALK, "thinking": "one and one is two"}, "column 'thinking' is no"),
    "an instruction and a question": ({"instruction": "Answer.", "question": "Q", "output": "A"}, "column 'question'"),
    "a prompt and a question": ({"prompt": "You help.", "question": "Q", "response": "A"}, "column 'question' is no"),
    "a passage": ({"passage": "Long ago", "question": "Q", "answer": "A"}, "column 'passage' is no part"),
    "choices in columns": ({"question": "Q", "A": "one more", "B": "y", "answer": "A"}, "column 'A' is no part"),
    "an image's path": ({"messages": TALK, "image_path": "a.png"}, "column 'image_path' is not text"),
    "images in a message": ({"messages": [{**Q, "images": ["a.png"]}, A]}, "a message holds 'images'"),
    "an image column": ({"messages": TALK, "images": ["a.png"]}, "column 'images' is not text"),
    "an image part": ({"messages": [{"role": "user", "content": [{"type": "image"}]}, A]}, "holds 'image'"),
    "two systems": ({"messages": SYSTEM, "system": "other"}, "column 'system' is no part"),
    "context of a question": ({"question": "Q", "context": "C", "answer": "A"}, "column 'context' is no part"),
    "choices": ({"question": "Q", "choices": ["x", "y"], "answer": "A"}, "column 'choices' is no part"),
    "input beside messages": ({"messages": TALK, "input": "I"}, "column 'input' is no part"),
    "two conversations": ({"messages": TALK, **gpt("human", "other", "gpt", "B")}, "are two conversations"),
    "messages and another pair": ({"messages": TALK, "prompt": "P", "completion": "C"}, "are two conversations"),
    "OpenAI's old functions": ({"messages": TALK, "functions": [{"name": "add"}]}, "column 'functions' is no part"),
    "unknown role": ({"messages": [Q, {"role": "critic", "content": "A"}]}, "role 'critic' is none of"),
    "no content": ({"messages": [Q, {"role": "assistant", "content": None}]}, "needs the strings"),
    "a number": ({"messages": [Q, {"role": "assistant", "content": 3}]}, "needs the strings"),
    "a call that is no JSON": (gpt("human", "Q", "function_call", "add(1)", "gpt", "A"), "a call must be JSON"),
    "Llama 3's text": ({"text": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nQ"}, "chat template"),
    "Mistral's text": ({"text": "<s>[INST] Q [/INST] A</s>"}, "form of a chat template already ([INST])"),
    "Gemma's text": ({"text": "<bos><start_of_turn>user\nQ<end_of_turn>\n"}, "chat template already"),
    "cut ChatML": ({"text": chatml("user", "Q") + "<|im_start|>assistant\nA"}, "ends before its last turn"),
    "a user's turn without an end": ({"text": "<|im_start|>user\nQ"}, "chat template already"),
    "broken ChatML": ({"text": "<|im_start|>user\nQ<|im_start|>assistant\nA<|im_end|>"}, "chat template already"),
    "plain text": ({"text": "once upon a time"}, "expected messages"),
    "no answer": ({"messages": [Q]}, "no assistant message"),
    "a text that is no list": ({"messages": "Q"}, "'messages' must be a list"),
    "Python's lists": ({"messages": "[{'role': 'user', 'content': 'Q'}]"}, "'messages' must be a list"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "part"), REFUSED.values(), ids=REFUSED)
def test_conversations_that_are_refused(row, part):
    with pytest.raises(UserError, match="row 7") as caught:
        read_messages(row, "row 7")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


PROMPTS: dict[str, tuple[dict[str, Any], str | list[dict[str, Any]]]] = {
    "text": ({"prompt": "Q"}, "Q"),
    "system beside": ({"question": "Q", "system": "S"}, [system("S"), Q]),
    "history beside": ({"prompt": "Q", "history": [["Q0", "A0"]]}, LONGER[:3]),
    "messages": ({"messages": [system("S"), Q]}, [system("S"), Q]),
    "the answer to learn": ({"messages": LONGER}, LONGER[:3]),
    "ShareGPT": (gpt("human", "Q", "gpt", "A", system="S"), [system("S"), Q]),
    "messages in JSON": ({"prompt": json.dumps([Q])}, [Q]),
    "ChatML": ({"prompt": chatml("system", "S", "user", "Q")}, [system("S"), Q]),
    "ChatML, opened": ({"prompt": chatml("user", "Q") + "<|im_start|>assistant\n"}, [Q]),
    "hh-rlhf": ({"prompt": "\n\nHuman: Q0\n\nAssistant: A0\n\nHuman: Q\n\nAssistant:"}, LONGER[:3]),
    "Alpaca": ({"instruction": "Q", "input": "I", "output": "A"}, "Q\n\nI"),
    "query": ({"query": "Q", "response": "A"}, "Q"),
    "a question about a template": ({"prompt": "What does <|im_start|> do?"}, "What does <|im_start|> do?"),
    "a question with brackets": ({"prompt": "[1, 2] + [3]?"}, "[1, 2] + [3]?"),
    "an array of messages": ({"prompt": np.array([Q], dtype=object)}, [Q]),
    "JSON that is no message": ({"prompt": '[{"a": 1}]'}, '[{"a": 1}]'),
    "Countdown's columns": ({"question": "Using the numbers 30, 100, 93, make 23.", "input": "30,100,93"},
                            "Using the numbers 30, 100, 93, make 23."),
    "empty first column": ({"prompt": float("nan"), "question": "Q"}, "Q"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "prompt"), PROMPTS.values(), ids=PROMPTS)
def test_prompts(row, prompt):
    assert read_prompt(row, "row 0")[1] == prompt


PROMPTS["a Body that the question holds"] = ({"Body": "I had three.", "question": "I had three. How many?"},
                                             "I had three. How many?")  # fmt: skip
PROMPTS["an empty Body"] = ({"Body": "", "Context": None, "question": "Q", "a": 1, "Level": 3}, "Q")
PROMPTS["blank first column"] = ({"prompt": " ", "question": "Q"}, "Q")
REFUSED_PROMPTS: dict[str, tuple[dict[str, Any], str]] = {
    "blank": ({"question": " \n", "answer": "1"}, "'question' is empty"),
    "an empty cell": ({"question": None, "answer": "1"}, "'question' is empty"),
    "an empty message": ({"prompt": [user(" ")]}, "'prompt' ends in a message that is empty"),
    "an instruction beside": ({"instruction": "Solve it", "problem": "2 + 2"}, "column 'instruction' is no part"),
    "a problem's body": ({"body": "I had three.", "question": "How many?"}, "column 'body' is no part"),
    "a Body": ({"Body": "I had three.", "question": "How many?"}, "column 'Body' is no part"),
    "Choices": ({"question": "Q", "Choices": ["x", "y"], "answer": 0}, "'Choices' is no part of the messages made of "
                "this row: nothing would see it; put it into the messages, or say with data.columns {unused: Choices}"),
    "a System Prompt": ({"question": "Q", "System Prompt": "S"}, "with data.columns {system_prompt: System Prompt}"),
    "a systemPrompt": ({"question": "Q", "systemPrompt": "S"}, "with data.columns {system_prompt: systemPrompt}"),
    "Starter-Code": ({"question": "Q", "Starter-Code": "def f():"}, "column 'Starter-Code' is no part"),
    "History": ({"question": "Q", "History": [["Q0", "A0"]]}, "its name with data.columns {history: History}"),
    "Tools": ({"question": "Q", "Tools": [{"name": "add"}]}, "give it its name with data.columns {tools: Tools}"),
    "an Image": ({"prompt": "Q", "Image": {"bytes": "x"}}, "column 'Image' is not text"),
    "prefill": ({"prompt": [Q, assistant("The answer is")]}, "the assistant has begun to say"),
    "marked as one": ({"messages": [Q, {**assistant("So"), "prefix": True}]}, "the assistant has begun to say"),
    "an opened thought": ({"messages": [Q, assistant("<think>\n")]}, "the assistant has begun to say"),
    "opened in ChatML": ({"prompt": chatml("user", "Q") + "<|im_start|>assistant\n<think>"}, "has begun to say"),
    "templated": ({"prompt": "<start_of_turn>user\nQ<end_of_turn>\n<start_of_turn>model\n"}, "template: '{prompt}'"),
    "an image": ({"prompt": "Q", "image": {"bytes": "x"}}, "column 'image' is not text"),
    "context": ({"question": "Q", "context": "C"}, "column 'context' is no part"),
    "choices": ({"question": "Q", "choices": ["x", "y"], "answer": 0}, "column 'choices' is no part"),
    "nothing": ({"text": "Q"}, "no column prompt | question | problem | messages (it has: text)"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "part"), REFUSED_PROMPTS.values(), ids=REFUSED_PROMPTS)
def test_prompts_that_are_refused(row, part):
    with pytest.raises(UserError, match="row 7") as caught:
        read_prompt(row, "row 7")
    assert part in str(caught.value)


@pytest.mark.parametrize(("row", "answer"), [
    ({"data_source": "x", "reward_model": {"ground_truth": "34", "style": "rule"}}, "34"),  # verl, DAPO
    ({"reward_model": {"ground_truth": '["-2", "2"]'}}, ["-2", "2"]),  # Skywork
    ({"reward_model": {"ground_truth": "[1, 2]"}}, "[1, 2]"),  # an interval is none of its ends
    ({"reward_model": "a name", "answer": "1"}, "1"),
    ({"final_answer": "1/2", "r1_solution_1": "long"}, "1/2"),  # DeepMath
    ({"solution": "prose without an answer", "final_answer": ["7"]}, ["7"]),  # OlympiadBench
    ({"expected_answer": "5"}, "5"), ({"ground_truth": 5}, 5), ({"answer": "", "solution": "3"}, ""),
    ({"answer": float("nan")}, None), ({"answer": "NaN", "gold": "2"}, "2"), ({"answer": False}, False),
    ({"answer": "  \n"}, ""), ({"answer": np.int64(7)}, 7), ({"answer": np.array(["1", "2"])}, ["1", "2"]),
])  # fmt: skip
def test_golds(row, answer):
    assert canonical_answer(row) == answer


def built(row: dict[str, Any], **settings: Any) -> Any:
    (prompt,) = build_prompts([row], DataConfig(path="d", **settings), make_tokenizer(CHAT_TEMPLATE))
    return prompt


def test_nan_is_no_gold_for_a_reward_either():
    assert read_golds(float("nan")) == read_golds("NaN") == read_golds([np.float32("nan")]) == []
    assert read_golds(np.int64(7)) == ["7"]
    prompt = built({"prompt": "1", "answer": float("nan"), "gold": "7"})
    assert (prompt.answer, prompt.columns["answer"]) == ("7", "7")


def test_system_and_suffix_reach_prompts_that_are_messages():
    """They did nothing there."""
    prompt = built({"messages": [user("2+2"), assistant("4"), user("3+3")]}, system="be brief", suffix=" box it")
    assert prompt.messages == [system("be brief"), user("2+2"), assistant("4"), user("3+3 box it")]
    own = built({"messages": [system("be long"), user("2+2")]}, system="be brief")
    assert own.messages == [system("be long"), user("2+2")]
    assert built({"question": "2+2", "system": "be long"}, system="be brief").messages == own.messages
    with pytest.raises(UserError, match="'suffix' goes after a user's message"):
        built({"messages": [user("2+2"), {"role": "tool", "content": "4"}]}, suffix="!")


def test_a_served_model_gets_the_same_messages():
    (prompt,) = chat_prompts([gpt("human", "Q", "gpt", "A", system="S")], DataConfig(path="d", suffix="!"))
    assert prompt.messages == [system("S"), user("Q!")]


def test_a_plain_template_takes_a_templates_text_as_it_is():
    text = "<|im_start|>user\n1<|im_end|>"
    assert built({"prompt": text}, template="{prompt}").text == text
    with pytest.raises(UserError, match="holds messages, but 'template' wants a string"):
        built({"prompt": json.dumps([Q])}, template="{prompt}")
    with pytest.raises(UserError, match="holds messages, but 'template' wants a string"):
        built({"prompt": "1", "system": "S"}, template="{prompt}")


def test_tools_reach_the_model_or_are_refused():
    """A plain-text template and a server that is asked for an answer get none."""
    row = {"prompt": "1", "tools": [{"type": "function", "function": {"name": "add"}}]}
    for refused in (lambda: built(row, template="{prompt}"), lambda: chat_prompts([row], DataConfig(path="d"))):
        with pytest.raises(UserError, match="row 0: column 'tools'"):
            refused()


@pytest.mark.parametrize(("column", "value"), [
    ("tools", "search, python"), ("tools", '{"name": "add"}'), ("documents", {"text": "a page"}),
    ("documents", [{"title": "t", "text": "what no template shows"}]), ("chat_template_kwargs", "think"),
])  # fmt: skip
def test_what_the_template_would_not_get_is_refused(column, value):
    with pytest.raises(UserError, match=f"row 0.*'{column}'"):
        built({"prompt": "1", column: value})
    assert built({"prompt": "1", column: type(value)()}).text


def test_a_column_that_is_not_meant_to_be_seen_is_named_so(tmp_path):
    write_jsonl(tmp_path / "d.jsonl", [{"question": "Q", "context": "C", "image": "a.png"}])
    data = DataConfig(path=str(tmp_path / "d.jsonl"), columns={"unused": "context", "unused_image": "image"})
    assert read_prompt(load_rows(data)[0], "row 0") == ("question", "Q")


def test_a_template_that_leaves_a_message_out_is_refused():
    dumb = CHAT_TEMPLATE.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
    with pytest.raises(UserError, match="row 0: the model's chat template does not write what the system says"):
        build_prompts([{"question": "1", "system": "be brief"}], DataConfig(path="d"), make_tokenizer(dumb))


def test_the_configs_system_message_does_not_hide_what_a_row_has(tmp_path):
    write_jsonl(tmp_path / "d.jsonl", [gpt("human", "Q", "gpt", "A", system="S"), gpt("human", "Q", "gpt", "A")])
    rows = conversation_rows(DataConfig(path=str(tmp_path / "d.jsonl"), system="C"))
    assert [read_messages(row, "row") for row in rows] == [SYSTEM, [system("C"), Q, A]]


def test_columns_that_no_message_holds_are_named():
    row = {"question": "Q", "answer": "A", "attempt": "a text of words", "source": "math", "text": "Q and then A it is"}
    assert unseen(row, [user("Q and then A it is"), A]) == ["attempt"]
    assert unseen({"tools": [{"name": "add", "description": "one of several words"}]}, [Q, A]) == []
    assert unseen({"tries": ["one of several words"], "passed": [True] * 5}, [Q, A]) == ["tries"]


def test_a_model_without_a_chat_template_is_told_of_both_keys():
    with pytest.raises(UserError, match=r"set data.template \(eval.data.template of grpo eval\) to a plain-text one"):
        build_prompts([{"prompt": "1"}], DataConfig(path="d"), make_tokenizer(None))
