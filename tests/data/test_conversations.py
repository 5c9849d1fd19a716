"""Only the assistant's tokens and its end token are trained, whatever the template writes around them."""

import pytest

from grpo.data.conversations import IGNORE, build_examples
from grpo.data.layouts import read_messages
from grpo.data.templates import turn_end
from grpo.errors import UserError
from stages.tiny_world import build_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As CHATML, but earlier assistant turns lose their thinking.
STRIPPING = CHATML.replace(
    "{{ m['content'] }}",
    "{{ m['content'] if loop.last or m['role'] != 'assistant' else m['content'].split('</think>')[-1] }}",
)
TALK = [
    {"role": "user", "content": "two plus two"},
    {"role": "assistant", "content": "<think>four</think>4"},
    {"role": "user", "content": "and one"},
    {"role": "assistant", "content": "<think>five</think>5"},
]


@pytest.fixture
def tokenizer():
    tokenizer = build_tokenizer(["two plus two is four and one is five", "user assistant"] * 20, 320)
    tokenizer.chat_template = CHATML
    return tokenizer


def trained(tokenizer, example):
    """The trained stretches, each decoded."""
    stretches, current = [], []
    for label in [*example.labels, IGNORE]:
        if label != IGNORE:
            current.append(label)
        elif current:
            stretches.append(tokenizer.decode(current))
            current = []
    return stretches


def test_labels_are_the_answers_and_their_end_tokens(tokenizer):
    (example,) = build_examples([{"messages": TALK}], tokenizer)
    assert trained(tokenizer, example) == ["<think>four</think>4<|im_end|>", "<think>five</think>5<|im_end|>"]
    # Nothing after the last end token, not even the newline that ChatML puts there.
    assert example.input_ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    text = tokenizer.apply_chat_template(TALK, tokenize=False)
    assert tokenizer.decode(example.input_ids) == text.removesuffix("\n")
    assert all(label in (IGNORE, token) for token, label in zip(example.input_ids, example.labels, strict=True))


def test_hand_built_labels(tokenizer):
    (example,) = build_examples([{"prompt": "two", "completion": "4"}], tokenizer)
    ids = tokenizer.convert_tokens_to_ids
    end, four = ids("<|im_end|>"), tokenizer("4")["input_ids"][0]
    opened = tokenizer("<|im_start|>user\ntwo<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    assert example.input_ids == [*opened, four, end]
    assert example.labels == [IGNORE] * len(opened) + [four, end]


def test_prompt_ids_are_those_of_generation(tokenizer):
    (example,) = build_examples([{"messages": TALK[:2]}], tokenizer)
    prompt = tokenizer.apply_chat_template(TALK[:1], add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert example.input_ids[: len(ids)] == ids
    assert set(example.labels[: len(ids)]) == {IGNORE}


def test_a_template_that_strips_earlier_thinking_gives_one_example_a_turn(tokenizer):
    tokenizer.chat_template = STRIPPING
    first, second = build_examples([{"messages": TALK}], tokenizer)
    assert trained(tokenizer, first) == ["<think>four</think>4<|im_end|>"]
    assert trained(tokenizer, second) == ["<think>five</think>5<|im_end|>"]
    assert "four</think>" not in tokenizer.decode(second.input_ids)


@pytest.mark.parametrize("row", [
    {"messages": TALK[:2]},
    {"conversations": [{"from": "human", "value": TALK[0]["content"]}, {"from": "gpt", "value": TALK[1]["content"]}]},
    {"prompt": TALK[0]["content"], "completion": TALK[1]["content"]}, {"prompt": TALK[:1], "completion": TALK[1:2]},
    {"instruction": TALK[0]["content"], "response": TALK[1]["content"]},
    {"instruction": TALK[0]["content"], "input": "", "output": TALK[1]["content"]},
])  # fmt: skip
def test_row_forms(row):
    assert read_messages(row, "row 0") == TALK[:2]


@pytest.mark.parametrize(("row", "message"), [
    ({"text": "hello"}, "row 0: expected messages"), ({"messages": []}, "'messages' must be a list"),
    ({"messages": [{"role": "user"}]}, "needs the strings 'role' and 'content'"),
    ({"messages": TALK[:1]}, "no assistant message"),
    ({"messages": TALK[1:2]}, "starts with the assistant"),
    ({"prompt": "two", "completion": "4<|im_end|>5"}, "contains the end token"),
])  # fmt: skip
def test_bad_rows_are_named(tokenizer, row, message):
    with pytest.raises(UserError, match="row 0") as error:
        build_examples([row], tokenizer)
    assert message in str(error.value)


def test_a_template_without_an_end_token_is_refused(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    with pytest.raises(UserError, match="no end token"):
        turn_end(tokenizer)
