"""The field cases of code, judge, format and language; and the relations that must hold for each kind."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.field_cases import results
from rewards.code.blocks import extract_code
from rewards.format import format_reward
from rewards.judge.verdicts import ReferenceVerdict, Unreadable, read_verdict
from rewards.language.reward import language_consistency
from support.real_data import needs_data

MISSES = {"b1566": "numbers only: the reward does not apply (None), where the label wants 0"}


@needs_data
@pytest.mark.slow
@pytest.mark.usefixtures("only_sandbox")
def test_the_field_cases():
    """97% of the rows whose label is no policy, none of them a false positive; each miss has its reason."""
    rows = [(row, verdict) for row, _, verdict in results() if not row.get("convention")]
    missed = {row["id"]: verdict for row, verdict in rows if verdict != "right"}
    assert len(rows) >= 119
    assert set(missed) == MISSES.keys()
    assert "false_positive" not in missed.values()
    assert 1 - len(missed) / len(rows) >= 0.97


HIDING = [
    "`{}`",
    "```\n{}\n```",
    "${}$",
    "$5 {} $6",
    "\\({}\\)",
    "\\boxed{{{}}}",
    "<b {}>",
    "https://x.org/{}",
    "\\text{{{}}}",
    "$${}$$",
]
foreign = st.text(st.sampled_from("我们相加得到五ทั้งหมดСложимдва두수를"), min_size=3, max_size=12)
english = st.lists(
    st.sampled_from(["we", "add", "them", "all", "12", "=", "$x^2$", "`f(x)`", "so"]), min_size=3, max_size=9
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(english, foreign, st.sampled_from(HIDING), st.integers(0, 9))
def test_no_mark_hides_a_language(words, text, mark, place):
    """What is foreign is so in any mark: hiding it never gives more than leaving it out, and less where it is words."""
    place %= len(words) + 1

    def share(hidden):
        thought = " ".join([*words[:place], hidden, *words[place:]])
        return language_consistency([f"<think>{thought}</think>5"], language="en")[0]

    bare, hidden, shown = share(""), share(mark.format(text)), share(text)
    assert hidden is not None
    assert hidden < 1.0
    assert hidden <= (1.0 if bare is None else bare)
    assert hidden == pytest.approx(shown, abs=0.35)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=20), st.sampled_from(["", "5", "so 5", "\u200b"]), st.sampled_from(["", "<think>"]),
       st.lists(st.sampled_from(["<|im_end|>", "</s>", "<eos>", "\n", "<｜eos｜>"]), max_size=3))  # fmt: skip
def test_end_tokens_change_no_format(thought, answer, opened, ends):
    """Whatever end tokens follow, the form is that of the text without them."""
    texts = [f"{opened}{thought}</think>{answer}{''.join(more)}" for more in ([], ends)]
    prefill = [None if opened else "<think>"] * 2
    first, second = format_reward(texts, prefill=prefill)
    assert first == second
    tagged = [f"{opened}{thought}</think><answer>{answer}</answer>{''.join(more)}" for more in ([], ends)]
    first, second = format_reward(tagged, prefill=prefill, answer_tag="answer")
    assert first == second


LATEX = ["\\\\sqrt{2}", "\\\\underline{x}", "\\\\uparrow", "\\\\(x\\\\)", "\\\\u12", "\\\\nu", "\\\\boxed{5}"]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(["it is right", "</think>", "<think>", "{5}", "```", *LATEX]), max_size=5),
       st.sampled_from(["", "so ", "<think>no</think>", "```json\n"]),
       st.sampled_from(["correct", "Correct", "INCORRECT"]),
       st.sampled_from(["", ",", " ,\n"]))  # fmt: skip
def test_what_an_analysis_quotes_changes_no_verdict(parts, before, verdict, comma):
    analysis = '"' + " ".join(parts) + '"'
    reply = f'{before}{{"id": "x", "analysis": {analysis}, "verdict": "{verdict}"{comma}}}'
    assert read_verdict(reply, ReferenceVerdict, "x").verdict == verdict.lower()
    with pytest.raises(Unreadable):
        read_verdict("<think>" + reply.replace("</think>", ""), ReferenceVerdict, "x")


FENCES = ["```python", "```py", "``` Python3", "~~~python", "```{python}", "<answer>```python", "So: ```python"]
CODE = "n = int(input())\nprint(n + 1)"
AFTER = [
    "\nOutput:\n```\n4\n```",
    "\n```\nO(1)\n```",
    "\n```bash\npython a.py\n```",
    "\nDone.",
    "\n```text\nn = 3\n```",
]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(FENCES), st.lists(st.sampled_from(AFTER), max_size=3), st.sampled_from(["\n```", "```"]),
       st.sampled_from(["\n", "\r\n"]))  # fmt: skip
def test_what_stands_around_a_program_changes_nothing(fence, after, closing, newline):
    closing = closing.replace("```", "~~~") if fence.startswith("~") else closing
    end = "</answer>" if "<answer>" in fence else ""
    text = f"Here.\n{fence}\n{CODE}{closing}{end}{''.join(after)}".replace("\n", newline)
    assert extract_code(text).strip() == CODE
