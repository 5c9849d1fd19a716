"""Filters on chains of thought that people are to read."""

import pytest

from grpo.errors import UserError
from grpo.scoring.groups import score
from grpo.types import Completion, Group, Prompt, Rollout
from rewards import load_reward
from rewards.length import length_range
from rewards.readable import no_code, paragraphs


@pytest.mark.parametrize(("thought", "good"), [
    ("short\n\nshort", 1.0), ("eleven char", 0.0), ("ten chars.", 1.0), ("  ten chars.  ", 1.0), ("", 1.0),
    ("one two\nthree", 0.0),  # a line end alone ends no paragraph
    ("one two\n \t\nthree", 1.0), ("one two\r\n\r\nthree", 1.0), ("ก" * 11, 0.0),
])  # fmt: skip
def test_paragraphs(thought, good):
    turn = f"<think>{thought}</think>{'an answer of any length ' * 9}"
    assert paragraphs([turn], max_characters=10) == [good]
    assert paragraphs([turn.removeprefix("<think>")], prefill=["<think>"], max_characters=10) == [good]


def test_a_thought_in_other_tags():
    turns = ["<thinking>```1```</thinking>2", "<thinking>one</thinking>```2```"]
    assert no_code(turns, think_tag="thinking") == [0.0, 1.0]
    assert paragraphs(["<thinking>eleven char</thinking>2"], max_characters=10, think_tag="thinking") == [0.0]


@pytest.mark.parametrize(("thought", "good"), [
    ("so\n```python\nprint(2)\n```\n", 0.0), ("so ```print(2)``` is", 0.0), ("~~~\nx\n~~~", 0.0), ("  ~~~\nx", 0.0),
    ("> ```\n> x", 0.0), ("`x` is two", 1.0), ("about ~~~ 5", 1.0), ("", 1.0), ("``x``", 1.0),
])  # fmt: skip
def test_no_code(thought, good):
    assert no_code([f"<think>{thought}</think>```python\nprint(2)\n```"]) == [good]


def test_messages_are_read_too():
    said = [[{"role": "assistant", "content": "<think>```x```</think>5"}]]
    assert no_code(said) == [0.0]
    assert paragraphs(said) == [1.0]


def test_length_range():
    ids = [[1] * n for n in (0, 1, 2, 3, 4)]
    texts = ["", "a", "a", "a", "a"]
    assert length_range(texts, ids, min_tokens=2, max_tokens=3) == [0.0, 0.0, 1.0, 1.0, 0.0]
    assert length_range(texts, ids, min_tokens=2) == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert length_range(texts, ids, max_tokens=3) == [1.0, 1.0, 1.0, 1.0, 0.0]
    errors = {}
    assert length_range(["a"], [[]], max_tokens=3, log_error=errors.__setitem__) == [None]
    assert list(errors) == [0]


@pytest.mark.parametrize(("fn", "kwargs", "message"), [
    ("length_range", {}, "give `kwargs: {min_tokens"),
    ("length_range", {"min_tokens": 5, "max_tokens": 4}, "more than"),
    ("length_range", {"max_tokens": 0}, "whole number from 1 on"),
    ("length_range", {"min_tokens": True}, "must be int"),
    ("paragraphs", {"max_characters": 0}, "whole number from 1 on"),
    ("paragraphs", {"max_characters": "9"}, "must be int"),
])  # fmt: skip
def test_wrong_options(fn, kwargs, message):
    with pytest.raises(UserError, match=f"reward '{fn}': .*{message}"):
        load_reward({"fn": fn, "kwargs": kwargs})


def test_they_load_by_name_and_read_a_conversation():
    names = [{"fn": "paragraphs"}, {"fn": "no_code"}, {"fn": "length_range", "kwargs": {"max_tokens": 9}}]
    prompt = Prompt("p", (1,), [{"role": "user", "content": "?"}], prefill="<think>")
    rollout = Rollout(Completion((1, 2), (0.0, 0.0), "stop", "it is ```5```</think>5"))
    ((group,), _) = score([Group(prompt, (rollout,))], [load_reward(spec) for spec in names])
    assert group.rollouts[0].rewards == {"paragraphs": 1.0, "no_code": 0.0, "length_range": 1.0}
