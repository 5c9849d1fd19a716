"""Format and language consistency, counted by hand."""

import re
import sys

import pytest

from grpo.errors import UserError
from grpo.scoring.groups import score
from grpo.types import Prompt
from rewards import load_reward
from rewards.format import format_reward, reasoning_steps, tag_count
from rewards.language import detector
from rewards.language.reward import chain_of_thought, count_words, language_consistency
from rewards.language.words import SCRIPTS, scripts_of
from support.groups import texts_of
from support.real_data import needs_data, rows_of

THINK = [
    ("<think>r</think>5", 1.0), (" \n<think>r</think>\n\n5", 1.0), ("<think></think>5", 1.0),
    ("<think>a <b> c</think>5", 1.0), ("r</think>5", 0.0), ("<think>r 5", 0.0), ("<think>r</think>", 0.0),
    ("<think>r</think> \u200b\n", 0.0), ("pre <think>r</think>5", 0.0), ("<think>a<think>b</think></think>5", 0.0),
    ("<think>a</think>5<think>b</think>", 0.0), ("</think>r<think>5", 0.0), ("< think>r</think>5", 0.0), ("", 0.0),
    ("<think>" * 20_000, 0.0),
]  # fmt: skip
ANSWER = [
    ("<think>r</think><answer>5</answer>", 1.0), ("<think>r</think>\n<answer>\n5\n</answer>\n", 1.0),
    ("<think>r</think>5", 0.0), ("<think>r</think><answer> </answer>", 0.0),
    ("<think>r</think><answer>5</answer> and more", 0.0), ("<think>r</think>so <answer>5</answer>", 0.0),
    ("<think>r</think><answer>5</answer><answer>6</answer>", 0.0), ("<think>r</answer><answer>5</think>", 0.0),
    ("<answer>5</answer><think>r</think>", 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), THINK)
def test_think(text, expected):
    assert format_reward([text]) == [expected]
    assert format_reward([[{"role": "assistant", "content": text}]]) == [expected]


@pytest.mark.parametrize(("text", "expected"), ANSWER)
def test_think_and_answer(text, expected):
    assert format_reward([text], answer_tag="answer") == [expected]


@pytest.mark.parametrize(("text", "strict", "lenient"), [
    ("<think>r</think><answer>5</answer>", 1.0, 1.0),
    ("Well. <think>r</think> so <answer>5</answer> Bye.", 0.0, 1.0), ("<answer>5</answer><think>r</think>", 0.0, 0.0),
    ("<think>r</think><answer>5</answer><answer>6</answer>", 0.0, 0.0),
    ("<think>r<answer>5</think></answer>", 0.0, 0.0), ("<think>r</think> so <answer> </answer>", 0.0, 0.0),
])  # fmt: skip
def test_text_outside_of_the_tags(text, strict, lenient):
    assert format_reward([text], answer_tag="answer") == [strict]
    assert format_reward([text], answer_tag="answer", strict=False) == [lenient]
    assert format_reward(["Well. <think>r</think>5"], strict=False) == [1.0]


@pytest.mark.parametrize(("answer", "expected"), [
    ("```python\nx = 1\n```", 1.0), ("First:\n```Python \nx = 1\n```\nDone.", 1.0), ("```python\nx = 1", 0.0),
    ("```python\n\n```", 0.0), ("```\nx = 1\n```", 0.0), ("```python3\nx = 1\n```", 0.0), ("x = 1", 0.0),
])  # fmt: skip
def test_an_answer_in_code(answer, expected):
    assert format_reward([f"<think>r</think>{answer}"], code="python") == [expected]
    assert format_reward(
        [f"<think>```python\nx\n```</think>\n<answer>{answer}</answer>"], answer_tag="answer", code="python"
    ) == [expected]


def test_tags_and_steps_in_part():
    texts = ["<think>r</think><answer>5</answer>", "<think>r</think>5", "<think><think>r</think><answer>", "5"]
    assert tag_count(texts) == [1.0, 0.5, 0.5, 0.0]
    assert tag_count(["r</think>5"], prefill=["<a>\n<think>\n"]) == [0.5]
    with pytest.raises(UserError, match="reward 'tag_count': opened is"):
        tag_count([""], opened="no")
    with pytest.raises(UserError, match="opened is true, false or auto"):
        format_reward(["x"], opened="yes")
    said = ["1. add\n2) halve", "**Step 1:** add\nThen halve.\n- done\n- yes", "1.5 and -3\nThenceforth 2. and", ""]
    assert reasoning_steps(said) == [2 / 3, 1.0, 0.0, 0.0]


OPENED, WHOLE = "r</think>5", "<think>r</think>5"


@pytest.mark.parametrize(("options", "scores"), [
    ({}, [0.0, 1.0]), ({"opened": True}, [1.0, 0.0]),
    ({"prefill": ["<|assistant|>\n<think>\n"] * 2}, [1.0, 0.0]), ({"prefill": ["<|assistant|>\n"] * 2}, [0.0, 1.0]),
    ({"prompts": ["Q <think>\n"] * 2}, [1.0, 0.0]),
    ({"prompts": ["Use <think> tags. A:"] * 2}, [0.0, 1.0]),
    ({"prompts": [[{"role": "user", "content": "<think>"}]] * 2}, [0.0, 1.0]),
    ({"prompts": [[{"role": "assistant", "content": "<think>"}]] * 2}, [1.0, 0.0]),
    ({"prompts": ["Q <think>"] * 2, "opened": False}, [0.0, 1.0]),
])  # fmt: skip
def test_templates_that_open_the_thinking(options, scores):
    assert format_reward([OPENED, WHOLE], **options) == scores


def test_thinking_switched_off_by_the_template():
    assert format_reward(["5", ""], prefill=["<think>\n\n</think>\n\n"] * 2) == [1.0, 0.0]


def test_prefill_reaches_the_rewards_through_the_scoring_layer():
    columns = {"language": "en", "answer": "5"}
    prompt = Prompt("p", (1,), [{"role": "user", "content": "?"}], "?", columns, prefill="<|a|><think>\n")
    group = texts_of(prompt, "two สาม</think> The answer is five")
    (scored,), _ = score([group], [load_reward("format"), load_reward("language")])
    assert scored.rollouts[0].rewards == {"format": 1.0, "language": 0.5}


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


@pytest.mark.parametrize(("text", "language", "expected"), [
    ("<think>two plus two</think>สี่", "en", 1.0), ("<think>two สาม</think>five", "th", 0.5),
    ("<think>two plus สาม</think>", "en", 2 / 3), ("<think>12 + 3 = 15 by</think>fifteen", "th", 0.0),
    ("<think></think>five", "en", 0.0), ("<think>deux plus trois", "fr", 1.0),  # never closed
    ("สอง บวก</think>two", "th", 1.0),  # opened by the template
    ("因为二加三等于五", "zh", 1.0), ("因为二加三等于五", "ja", 0.0), ("答えは5です。", "ja", 1.0),
    ("two", "zh-TW", 0.0),
])  # fmt: skip
def test_consistency(text, language, expected):
    assert language_consistency([text], language=language) == [pytest.approx(expected)]


@pytest.mark.parametrize("hidden", [
    "`全部都用中文写`", "```\n全部都用中文写的推理过程\n```", "\\boxed{全部都用中文}", "<x 全部都用中文写>", "https://全部都用中文写",
    "$全部都用中文写$", "\\(全部都用中文写\\)", "$$全部$$", "\\frac{全部}{都用}", "\\begin{x}全部都用\\end{x}",
    "the sum is $5 全部都用中文写 $6",
])  # fmt: skip
def test_words_that_marks_hide_count(hidden):
    """Whatever hides them, they are foreign; without them the words around are all English."""
    bare = re.sub(r"[\u4e00-\u9fff]+", "", hidden)
    values = language_consistency([f"We add {text} and so on" for text in (hidden, bare)], language="en")
    assert values[0] < 1.0
    assert values[1] == 1.0


@pytest.mark.parametrize("hidden", [
    "`the whole of it is thought in English`", "$5 we add them all and get $6", "<x we add them all and get six>",
    "```\nfirst we add them all and then get six\n```", "\\boxed{we add them all and get six}",
])  # fmt: skip
def test_sentences_that_marks_hide_count(hidden):
    assert language_consistency([f"我们相加 {hidden} 得到五"], language="zh")[0] < 0.8


@pytest.mark.parametrize("code", [
    "`print(x)`", "```python\nfrom collections import Counter\nfor word in words:\n    return not found\n```",
    "$\\text{Area} = ab$", "\\begin{align*} \\text{Area} &= 5 \\end{align*}", "https://example.org/a/long/way/to/go",
    "<b>", "\\(\\sin x + \\max y\\)", "`x + y`", "<|im_end|>",
])  # fmt: skip
def test_formulas_and_code_are_no_words(code):
    assert language_consistency([f"我们相加 {code} 得到五"], language="zh") == [1.0]


@pytest.mark.parametrize(("thought", "value"), [
    ("682 + 967 = 1649", None), ("$x^2 = 4$", None), ("x = 2", None), ("`a + b`", None),
    ("", 0.0), (" \n", 0.0), ("...", 0.0), ("<think></think>", 0.0),
])  # fmt: skip
def test_no_word_is_in_no_language(thought, value):
    """Numbers and formulas are in no language, an empty thought is not thinking."""
    errors = {}
    assert language_consistency([f"<think>{thought}</think>5"], language="en", log_error=errors.__setitem__) == [value]
    assert not errors


@pytest.mark.parametrize("end", [
    *("<|im_end|>", "<|endoftext|>", "</s>", "<eos>", "<end_of_turn>", "<｜end▁of▁sentence｜>", "<|eot_id|>", "[EOS]"),
])  # fmt: skip
def test_an_end_token_is_no_answer(end):
    assert format_reward([f"<think>r</think>{end}", f"<think>r</think>\n{end}\n{end}"]) == [0.0, 0.0]
    assert format_reward([f"<think>r</think>5{end}"]) == [1.0]
    assert format_reward([f"<think>r</think><answer>{end}</answer>"], answer_tag="answer") == [0.0]


def test_chain_of_thought():
    assert {chain_of_thought(text) for text in ("<think>a</think>b", "a</think>b", "<think>a", "a")} == {"a"}


def test_language_from_a_column():
    errors = {}
    scores = language_consistency(["two"] * 3, language=["en", None, "qq"], log_error=errors.__setitem__)
    assert scores == [1.0, None, None]
    assert "unknown language code 'qq'" in errors[2]


def test_a_thought_without_words_may_be_given_a_share():
    """Beside siblings that are paid for their words, None is worth 0."""
    texts = ["<think>2 + 3 = 5</think>5", "<think>two</think>2", "<think></think>5"]
    assert language_consistency(texts, language="en") == [None, 1.0, 0.0]
    assert language_consistency(texts, language="en", wordless=1) == [1, 1.0, 0.0]
    assert language_consistency(texts[:2], language=["en", None], wordless=0.5) == [0.5, None]
    with pytest.raises(UserError, match="wordless is a share"):
        language_consistency(texts, language="en", wordless=2)


def test_unknown_or_missing_language():
    with pytest.raises(UserError, match="unknown language code 'qq'"):
        language_consistency(["two"], language="qq")
    with pytest.raises(UserError, match="give `kwargs"):
        language_consistency(["two"])


@pytest.mark.parametrize(("text", "words"), [
    ("so ℝ and 𝑥 and 𝒜𝓑 in ℏ, 5 µ", {"LATIN": 4}), ("п'ять яблук", {"CYRILLIC": 2}), ("Oʻzbek tili", {"LATIN": 2}),
    (r"we \[ have \[ x + abc \] it", {"LATIN": 3}),
    (r"so \begin{align} abc \begin{cases} def \end{cases} \end{align} done", {"LATIN": 2}),
])  # fmt: skip
def test_signs_and_formulas_are_no_words(text, words):
    assert dict(count_words(text)) == words


@pytest.mark.parametrize(("code", "scripts"), [
    *(("en", {"LATIN"}), ("en-GB", {"LATIN"}), ("sr", {"CYRILLIC"}), ("sr-Latn-RS", {"LATIN"})),
    *(("zh_Hant", {"HAN"}), ("yue", {"HAN"}), ("uz-Cyrl", {"CYRILLIC"}), ("qqq-Latn", {"LATIN"})),
    *(("dv", {"THAANA"}), ("ja", {"HAN", "HIRAGANA", "KATAKANA"})),
])  # fmt: skip
def test_scripts(code, scripts):
    assert scripts_of(code) == scripts


def test_every_two_letter_code_and_every_language_of_the_detector_has_a_script():
    assert len([code for code in SCRIPTS if len(code) == 2]) >= 183
    assert set(detector.identifier().nb_classes) - set(SCRIPTS) == {"zxx"}  # "no language"


ENGLISH = "First we add the two numbers. Wait, let me check. The sum of both is twelve, so each child gets four apples."
FRENCH = (
    "Ensuite nous partageons les douze pommes entre les trois enfants. La réponse est donc quatre pommes par enfant."
)
UKRAINIAN = "Спочатку додамо обидва числа. У Марії було десять яблук, і вона віддала два своїй сестрі."
RUSSIAN = "Сначала сложим оба числа. У Марии было десять яблок, и она отдала два своей сестре."
CANTONESE = "佢哋有五個蘋果，食咗兩個。我哋要計吓仲有幾多個，所以答案係三個，唔係五個。"
MANDARIN = "他们有五个苹果，吃了两个。我们要算一下还有几个，所以答案是三个，不是五个。"


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        (ENGLISH, "en", 1.0),
        (ENGLISH, "fr", 4 / 22),  # "Wait, let me check": too short to tell
        (FRENCH, "fr", 1.0),
        (FRENCH, "en", 0.0),
        (UKRAINIAN, "uk", 1.0),
        (UKRAINIAN, "ru", 0.0),
        (RUSSIAN, "ru", 1.0),
        (RUSSIAN, "uk", 4 / 15),  # the first sentence could be Ukrainian
        (CANTONESE, "yue", 1.0),
        (CANTONESE, "zh", 0.0),
        (MANDARIN, "zh", 1.0),
        (MANDARIN, "yue", 0.0),
        ("Okay. So we get 5. Hmm. $x=3$, q.e.d.", "en", 1.0),
        ("สองบวกสาม two", "th", 3 / 4),  # Thai has its script for itself
        ("two สาม", "en", 0.5),
    ],
)
def test_languages_of_one_script(text, language, expected):
    (score,) = language_consistency([text], language=language, detect=True)
    assert score == pytest.approx(expected)


def test_sentences_of_two_languages():
    """22 words and 19, with signs and numbers of no language between them."""
    text = f"<think>{ENGLISH} 4 × 3 = 12. {FRENCH}</think>5"
    words = count_words(ENGLISH)["LATIN"], count_words(FRENCH)["LATIN"]
    assert language_consistency([text], language="en") == [1.0]
    for _ in range(2):
        assert language_consistency([text], language="en", detect=True) == [pytest.approx(words[0] / sum(words))]
    scores = [language_consistency([text], language=code, detect=True)[0] for code in ("fr", "de")]
    assert scores[0] < 0.75  # its own, and what is too short to tell
    assert scores[1] < 0.3


def test_the_detector_is_an_option_of_the_config():
    reward = load_reward({"fn": "language", "kwargs": {"language": "en", "detect": True}})
    prompt = Prompt("p", (1,), "?", "?", {"detect": False}, prefill="")
    (scored,), _ = score([texts_of(prompt, FRENCH)], [reward])
    assert scored.rollouts[0].rewards == {"language": 0.0}
    assert language_consistency([FRENCH], language="en") == [1.0]


def test_a_language_that_the_detector_does_not_know():
    assert language_consistency(["a wata b"], language="na") == [1.0]
    with pytest.raises(UserError, match="detect: the detector does not know 'na'"):
        language_consistency([], language="na", detect=True)
    errors = {}
    scores = language_consistency([ENGLISH] * 2, language=["na", "en"], detect=True, log_error=errors.__setitem__)
    assert scores == [None, 1.0]
    assert errors.keys() == {0}
    assert language_consistency(["Ꭰ ᎠᎴ"], language="chr", detect=True) == [1.0]  # a script of its own needs none


def test_the_detector_is_not_installed(monkeypatch):
    detector.identifier.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(UserError, match="detect needs the package py3langid: pip install py3langid"):
        language_consistency(["two"], language=["en"], detect=True)
    assert language_consistency(["two"], language=["en"]) == [1.0]


@needs_data
def test_questions_in_five_languages_of_one_script():
    """MGSM: every language is its own, and none of the others."""
    questions: dict[str, list[str]] = {}
    for row in rows_of("sets/mgsm.jsonl"):
        questions.setdefault(row["lang"], []).append(row["question"])
    codes = ("en", "es", "fr", "de", "sw")
    for code in codes:
        for other in codes:
            scores = language_consistency(questions[other][:10], language=code, detect=True)
            mean = sum(score for score in scores if score is not None) / len(scores)
            assert (mean > 0.99) if code == other else (mean < 0.03), (code, other, mean)


@needs_data
def test_english_chains_of_thought_are_english():
    texts = [row["completion"] for row in rows_of("cases/real_completions.jsonl")][::40]
    plain = language_consistency(texts, language="en")
    found = language_consistency(texts, language="en", detect=True)
    lost = sum(a - b for a, b in zip(plain, found, strict=True) if a is not None and b is not None) / len(texts)
    assert 0 <= lost < 0.02
