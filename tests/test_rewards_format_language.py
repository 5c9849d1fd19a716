"""Format and language consistency, counted by hand."""

from __future__ import annotations

import pytest

from grpo.errors import UserError
from grpo.scoring import score
from grpo.types import Completion, Group, Prompt, Rollout
from rewards import load_reward
from rewards.format import format_reward
from rewards.language import chain_of_thought, count_words, language_consistency

THINK = [
    ("<think>r</think>5", 1.0),
    (" \n<think>r</think>\n\n5", 1.0),
    ("<think></think>5", 1.0),
    ("<think>a <b> c</think>5", 1.0),
    ("r</think>5", 0.0),
    ("<think>r 5", 0.0),
    ("<think>r</think>", 0.0),
    ("<think>r</think> \u200b\n", 0.0),
    ("pre <think>r</think>5", 0.0),
    ("<think>a<think>b</think></think>5", 0.0),
    ("<think>a</think>5<think>b</think>", 0.0),
    ("</think>r<think>5", 0.0),
    ("< think>r</think>5", 0.0),
    ("", 0.0),
    ("<think>" * 20_000, 0.0),
]
ANSWER = [
    ("<think>r</think><answer>5</answer>", 1.0),
    ("<think>r</think>\n<answer>\n5\n</answer>\n", 1.0),
    ("<think>r</think>5", 0.0),
    ("<think>r</think><answer> </answer>", 0.0),
    ("<think>r</think><answer>5</answer> and more", 0.0),
    ("<think>r</think>so <answer>5</answer>", 0.0),
    ("<think>r</think><answer>5</answer><answer>6</answer>", 0.0),
    ("<think>r</answer><answer>5</think>", 0.0),
    ("<answer>5</answer><think>r</think>", 0.0),
]


@pytest.mark.parametrize(("text", "expected"), THINK)
def test_think(text, expected):
    assert format_reward([text]) == [expected]
    assert format_reward([[{"role": "assistant", "content": text}]]) == [expected]


@pytest.mark.parametrize(("text", "expected"), ANSWER)
def test_think_and_answer(text, expected):
    assert format_reward([text], answer_tag="answer") == [expected]


OPENED, WHOLE = "r</think>5", "<think>r</think>5"


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        ({}, [0.0, 1.0]),
        ({"opened": True}, [1.0, 0.0]),
        ({"prefill": ["<|assistant|>\n<think>\n"] * 2}, [1.0, 0.0]),
        ({"prefill": ["<|assistant|>\n"] * 2}, [0.0, 1.0]),
        ({"prompts": ["Q <think>\n"] * 2}, [1.0, 0.0]),
        ({"prompts": ["Use <think> tags. A:"] * 2}, [0.0, 1.0]),
        ({"prompts": [[{"role": "user", "content": "<think>"}]] * 2}, [0.0, 1.0]),
        ({"prompts": [[{"role": "assistant", "content": "<think>"}]] * 2}, [1.0, 0.0]),
        ({"prompts": ["Q <think>"] * 2, "opened": False}, [0.0, 1.0]),
    ],
)
def test_templates_that_open_the_thinking(options, scores):
    assert format_reward([OPENED, WHOLE], **options) == scores


def test_thinking_switched_off_by_the_template():
    assert format_reward(["5", ""], prefill=["<think>\n\n</think>\n\n"] * 2) == [1.0, 0.0]


def test_prefill_reaches_the_rewards_through_the_scoring_layer():
    prompt = Prompt(
        "p", (1,), [{"role": "user", "content": "?"}], "?", {"language": "en", "answer": "5"}, prefill="<|a|><think>\n"
    )
    group = Group(prompt, (Rollout(Completion((1,), (0.0,), "stop", "two สาม</think> The answer is five")),))
    (scored,), _ = score([group], [load_reward("format"), load_reward("language")])
    assert scored.rollouts[0].rewards == {"format": 1.0, "language": 0.5}


def test_wrong_option():
    with pytest.raises(UserError, match="opened is true, false or auto"):
        format_reward(["x"], opened="yes")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("two plus two, don't", {"LATIN": 4}),
        ("สามบวกห้า", {"THAI": 2}),  # ส า ม บ ว ก ห า: eight base letters, the tone mark is none
        ("ก", {"THAI": 1}),
        ("สาม 12 ห้า", {"THAI": 2}),
        ("因为二加三等于五", {"HAN": 4}),
        ("два плюс three", {"CYRILLIC": 2, "LATIN": 1}),
        ("x + 2y = α", {}),
        (r"so $x + why$ and \frac{a}{bcd} then \[ abc \]", {"LATIN": 3}),
        ("run `print(x)` or ```python\nimport os\n``` now", {"LATIN": 3}),
        ("cafe\u0301 au lait <b>12</b>", {"LATIN": 3}),
        ("12 + 30 = 42", {}),
    ],
)
def test_words(text, words):
    assert dict(count_words(text)) == words


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("<think>two plus two</think>สี่", "en", 1.0),
        ("<think>two สาม</think>five", "th", 0.5),
        ("<think>two plus สาม</think>", "en", 2 / 3),
        ("<think>12 + 3 = 15</think>fifteen", "en", 0.0),
        ("<think></think>five", "en", 0.0),
        ("<think>deux plus trois", "fr", 1.0),  # never closed
        ("สอง บวก</think>two", "th", 1.0),  # opened by the template
        ("因为二加三等于五", "zh", 1.0),
        ("因为二加三等于五", "ja", 0.0),
        ("答えは5です。", "ja", 1.0),
        ("two", "zh-TW", 0.0),
    ],
)
def test_consistency(text, language, expected):
    assert language_consistency([text], language=language) == [pytest.approx(expected)]


def test_chain_of_thought():
    assert chain_of_thought("<think>a</think>b") == "a"
    assert chain_of_thought("a</think>b") == "a"
    assert chain_of_thought("<think>a") == "a"
    assert chain_of_thought("a") == "a"


def test_language_from_a_column():
    said = []
    scores = language_consistency(
        ["two", "two", "two"], language=["en", None, "qq"], log_error=lambda row, text: said.append((row, text))
    )
    assert scores == [1.0, None, None]
    assert said[0][0] == 2
    assert "unknown language code 'qq'" in said[0][1]


def test_unknown_or_missing_language():
    with pytest.raises(UserError, match="unknown language code 'qq'"):
        language_consistency(["two"], language="qq")
    with pytest.raises(UserError, match="give `kwargs"):
        language_consistency(["two"])
