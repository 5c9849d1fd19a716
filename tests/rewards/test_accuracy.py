"""The math grader: where the answer is read, what equals what, and that no answer can hang or harm."""

import asyncio
import itertools
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from grpo.errors import UserError
from grpo.scoring.table import apply_rewards
from rewards import load_reward
from rewards.accuracy import workers as judging
from rewards.accuracy.reward import accuracy_reward, extract_answer, gold_is_parseable, grade
from rewards.countdown import countdown_reward
from rewards.length import cosine_length, length_reward
from support.command import python
from support.real_data import needs_data, rows_of


def test_a_thought_that_never_ends_has_no_answer():
    """Whether the completion or the template opened it, whatever it boxes."""
    cut, whole = r"\boxed{5} or", r"so \boxed{4}</think>\boxed{5}"
    assert extract_answer(f"<think>{cut}") is None
    assert extract_answer(f"<think>{cut}", anywhere=True) is None
    assert extract_answer(f"<think>a</think>4 <think>{cut}") is None
    opened = {"prefill": ["<think>\n"] * 2}
    assert accuracy_reward([f"<think>{cut}", f"<think>{whole}"], ["5"] * 2) == [0.0, 1.0]
    assert accuracy_reward([cut, whole], ["5"] * 2, **opened) == [0.0, 1.0]
    assert accuracy_reward([cut, whole], ["5"] * 2, prompts=["? <think>"] * 2) == [0.0, 1.0]
    assert accuracy_reward([cut], ["5"], prefill=["<think>\n\n</think>\n"]) == [1.0]  # switched off by the template
    numbers = {"target": [5, 5], "nums": [[2, 3]] * 2}
    for tag in ("", "<think>"):
        texts = [f"{tag}<answer>2+3</answer>", f"{tag}so</think><answer>2+3</answer>"]
        assert countdown_reward(texts, **numbers, **({} if tag else opened)) == [0.0, 1.0]
    lengths = {"completion_ids": [[1] * 9, [1] * 9], **opened}
    assert cosine_length([cut, whole], ["5"] * 2, max_length=9, **lengths) == [-0.5, 0.5]
    assert length_reward(["?"] * 2, [cut, whole], ["5"] * 2, **lengths) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"First \boxed{5}. No, \boxed{7}.", "7"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{x = \boxed{5}}", "5"),
        (r"\fbox{42}", "42"),
        (r"so $\boxed{1}$ and $\boxed{2}$.", "1, 2"),
        (r"\boxed{1}, \boxed{2} \text{ and } \boxed{3}", "1, 2, 3"),
        (r"\boxed{1} and \boxed{2} are candidates", "2"),  # not at the very end
        (r"\boxed{1} but also \boxed{2}", "2"),
        (r"either \boxed{5} or \boxed{7}", "5 or 7"),
        (r"\boxed{840}. **Final Answer** \boxed{840}", "840"),
        (r"put it within \boxed{}. I think 41", None),
        (r"\boxed{42", None),
        ("#### 41\nWait.\n#### 42", "42"),
        ("#### 42\n and the rest confirms it", "42"),
        ("#### Step 2: add\nThe answer is 5.", "5"),
        ("<think>a</think><answer> 7 </answer>", "7"),
        (r"<answer>so \boxed{7}</answer>", "7"),
        ("The answer is 5.", "5"),
        ("The final answer to the question is **12**.", "12"),
        ("A: 18.00", "18.00"),
        ("A: .5", ".5"),
        ("The luminosity is large, so the answer is 4.5e33 ergs.", "4.5e33 ergs"),
        ("Answer: $x$ is $3.5$", "3.5"),
        ("The answer is 9 - 4 = 5.", "5"),
        ("คำตอบคือ 12", "12"),
        ("答案是 12。", "12"),
        ("The answer is 7 or 5", "7 or 5"),
        ("The number 42 appears here.", None),
        ("42", None),
        (r"<think>\boxed{42}</think> Some other text.", None),
        (r"<think>\boxed{42}</think> \boxed{43}", "43"),
        ("", None),
    ],
)
def test_where_the_answer_is_read(text, answer):
    assert extract_answer(text) == answer


def test_strict_reads_one_place_only():
    text = r"<answer>7</answer> #### 8 The answer is 9"
    assert extract_answer(text) == "8 The answer is 9"
    assert extract_answer(text, strict=True) is None
    assert extract_answer(text, strict="answer") == "7"
    assert extract_answer(text + r"\boxed{6}", strict="box") == "6"
    with pytest.raises(UserError, match="not 'boxes'"):
        accuracy_reward(["5"], ["5"], strict="boxes")
    with pytest.raises(UserError, match="leave out anywhere"):
        accuracy_reward(["5"], ["5"], strict=True, anywhere=True)


@pytest.mark.parametrize(("text", "answer"), [
    ("The total is 72 clips, altogether.", "72"), ("Thus $x <= 2$ holds after 3 steps.", "x <= 2"),
    ("所以一共有3 + 10 = 13只鸟", "13"), ("**858颗**糖果", "858"), ("About 4.5e-7 metres.", "4.5e-7"),
    ("I think it's B, not A", "B"), ("just $5 or $6?", "$6"), (r"$4$. The answer is 5", "5"), ("no idea", None),
])  # fmt: skip
def test_anywhere(text, answer):
    assert extract_answer(text, anywhere=True) == answer


def test_scans_are_linear():
    start = time.monotonic()
    for unit in (r"\boxed{", r"\boxed{}", "<answer>", "#### ", "Answer: ", "</think>", "{", "$", "answer is "):
        extract_answer(unit * 20_000)
    assert time.monotonic() - start < 5


EQUAL = [
    ("#### 42", "42"), ("5", "5.00"), ("025", "25"), (27.0, "27"), (7, "7.0"), ("10{,}000", "10000"),
    ("1000", "1,000"), (r"32349", r"32,\! 349"), (r"\$6", "6"), ("10", r"10\text{ cm}"),
    ("15", "15 square centimeters"), ("90", r"90^\circ"), (r"28\%", "28"), (r"28\%", "0.28"), ("0.5", "1/2"),
    (r"\frac{1}{12}", "0.0833333333333333"), ("2.25", "2 1/4"), ("2.5", r"2\frac{1}{2}"),
    (r"\dfrac{9}{7}", r"\frac97"), ("-5", "−5"), ("5", "５"), (r"\sqrt{2}", "√2"), ("1.23 \\times 10^5", "123000"),
    (r"\text{Monday}", "monday"), ("A", r"\text{(A)}"), ("A", "A) 5"), (["7", "5"], "5"),
    (r"The roots are \boxed{1} and \boxed{-2}.", "-2, 1"), ("x=5", "5"), ("5", "x=5"), (r"\{1,2\}", r"\{2,1\}"),
    (r"x \in [-2,7]", r"-2 \le x \le 7"), ("1 + x", "x + 1"), ("a + b + c", "c+b+a"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"),
    (r"-2 \text{ or } -12", r"-12 \text{ or } -2"), ("9^{9^{9^{9}}}", "9^{9^{9^{9}}}"),
    (r"\frac{1}{2}", "0.5, or 1/2"), ("15", "5!!"), ("x >= 5", r"x \ge 5"),
    ("p = 5, q = 2 \\text{ and } p = 7, q = 2", "p=5,q=2;p=7,q=2"), ("The answer is: 42", "42"),
    ("4.5e33", r"4.5 \times 10^{33} \text{ erg}"), (r"4.5 \cdot 10^{33}", "4.5E33"), ("4.5e-7", "4.5×10⁻⁷"),
    ("1e33", "10^{33}"), ("4.5e33", r"\frac{9}{2} \cdot 10^{33}"), ("x^{23}", "x²³"), ("1/7", r"0.\overline{142857}"),
    (r"12.3\overline{45}", "679/55"), ("1/3", "0.333333"), ("-1/4", "-0.25"),
    (f"12.{'3' * 30}1%", f"0.12{'3' * 30}1"), ("D", "D, it can't be A or B"), ("B", "B。 不是 A"),
]  # fmt: skip
DIFFERENT = [
    ("0.0000001", "0.0000002"), ("1e-7", "2e-7"), (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"),
    ("123456789", "123456788"), ("1/3", "0.33"), ("5", "5, 7"), ("5", "5 or 7"), (["5", "7"], "5 or 7"),
    ("7", r"\text{7 is wrong, so } 8"),
    ("25", "There is no extra taler; the difference is 25 to 27"), ("(0,1)", "[0,1]"), ("(1,5)", "1.5"),
    (r"\pm 2021", "2021"), ("4", r"4\sqrt(2)"), ("5", "5x"), ("5", "5 million"),
    ("1 - \\frac{1}{\\mathrm{e}}", "1 + \\frac{1}{\\mathrm{e}}"), (r"1, 2, \ldots, n", r"1, 3, 5, \ldots, 2n-1"),
    ("A", "B"), ("A", "A or B"), ("A", "A, B"), ("A", "(A) (B)"), ("7", "7 or"), ("stop", "post"),
    ("4.5e33", r"4.5 \times 10^{32}"), ("4.5e33", r"4.5 \cdot e \cdot 33"), (r"0.\overline{3}", "0.3"),
    ("2000001/2", "1000000"),
    ("-1234567890123456789012345678901", "-1234567890123456789012345678902"),
    (f"12.{'3' * 30}1%", f"0.12{'3' * 30}2"), (r"\frac{1000000}{3}", "333333"), ("12345678/8", "1543209.8"),
    ("42", "²"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal(gold, answer):
    assert grade(rf"\boxed{{{answer}}}", gold) == 1.0


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different(gold, answer):
    assert grade(rf"\boxed{{{answer}}}", gold) == 0.0


@pytest.mark.parametrize("gold", [None, "", [], [None], "forty two", "Answer it in your own words.", {"a": 1}])
def test_a_gold_that_cannot_be_judged_is_never_scored(gold):
    assert not gold_is_parseable(gold)
    errors = {}
    scores = accuracy_reward([rf"\boxed{{{gold}}}", r"\boxed{5}"], [gold, "5"], log_error=errors.__setitem__)
    assert scores == [None, 1.0]
    assert errors.keys() == {0}
    table = apply_rewards([load_reward("accuracy")], [""], ["The answer is 1"], [[]], {"answer": [gold]})
    assert table.values == {"accuracy": [None]}
    assert list(table.errors) == [(0, "accuracy")]


def test_one_good_gold_in_a_list_is_enough():
    assert grade("The answer is 5", [None, "five and a bit", "5"]) == 1.0


def test_messages_are_read_as_strings_are():
    assert accuracy_reward([[{"role": "assistant", "content": r"\boxed{5}"}]], ["5"]) == [1.0]


HANGS = [
    r"\dfrac{5^{\left(5^{\left(5^{\left(5^5\right)}\right)} - 4\right)} - 5}{16}",
    "9^{9^{9^{9}}}",
    r"\binom{10^{9}}{5\cdot 10^{8}}",
]
NEW = itertools.count(1000)


def ask_a_worker():
    """A question that no cache answers."""
    number = next(NEW)
    return grade(rf"\boxed{{\sqrt{{{number**2}}}}}", number)


def workers():
    """The grader's processes, at least one of them ready."""
    assert ask_a_worker() == 1.0
    return [child for child in psutil.Process().children() if "accuracy/worker.py" in "".join(child.cmdline())]


@pytest.mark.skipif(sys.platform != "linux", reason="psutil gives the times of ended children there")
def test_hangs_are_bounded_and_harm_nobody_else():
    start = seconds_of_workers()
    for answer in HANGS:
        assert grade(rf"\boxed{{{answer}}}", "16") == 0.0
    spent = seconds_of_workers() - start
    assert 0.0 < spent < (2.0 + start) * len(HANGS)  # each was followed by the start of a worker in its place
    assert ask_a_worker() == 1.0


def seconds_of_workers():
    """CPU time, which other work on the machine does not stretch, of the workers and of what they forked."""
    return sum(sum(worker.cpu_times()[:4]) for worker in workers())


def test_a_stopped_worker_gives_its_verdict_later(monkeypatch):
    """What counts is CPU time: here the workers get none for longer than the limit."""
    monkeypatch.setattr(judging, "SECONDS", 0.5)
    forks = [fork for worker in workers() for fork in worker.children()]
    assert forks
    for fork in forks:
        fork.suspend()
        threading.Timer(1.0, fork.resume).start()
    assert ask_a_worker() == 1.0


def test_a_death_is_not_remembered(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(judging, "SECONDS", 0.01)  # this one takes a tenth of a second
        assert grade(r"\boxed{\sin^2(3)+\cos^2(3)}", "1") == 0.0
    assert grade(r"\boxed{\sin^2(3)+\cos^2(3)}", "1") == 1.0


def test_works_off_the_main_thread_and_in_async_code():
    async def in_loop():
        return await asyncio.gather(*(asyncio.to_thread(grade, rf"\boxed{{\sqrt{{{n * n}}}}}", n) for n in range(5, 9)))

    assert asyncio.run(in_loop()) == [1.0] * 4
    with ThreadPoolExecutor(8) as threads:
        verdicts = list(threads.map(lambda n: grade(rf"\boxed{{\sqrt{{{n * n}}}}}", 11 if n % 2 else n), range(12, 40)))
    assert verdicts == [0.0 if n % 2 else 1.0 for n in range(12, 40)]
    seen = []
    thread = threading.Thread(target=lambda: seen.append(grade(r"\boxed{8^{8^{8^{8}}}}", "1")))
    thread.start()
    thread.join(10)
    assert seen == [0.0]


def test_a_killed_worker_is_replaced():
    for worker in workers():
        worker.kill()
        worker.wait()
    assert ask_a_worker() == 1.0


def test_no_string_has_side_effects(tmp_path, monkeypatch):
    """Workers start in the folder to be written to: no name of it, with the numbers in it, stands in an answer."""
    judging.close()
    monkeypatch.chdir(tmp_path)
    call = "__import__('os').system('touch pwned')"
    for text in (rf"\boxed{{{call}}}", f"The answer is {call}", f"The answer is 1+{call}", r"\boxed{exit()}"):
        assert grade(text, "7") == 0.0
    assert list(tmp_path.iterdir()) == []


def test_workers_end_with_their_process():
    code = "import psutil, rewards.accuracy.reward as a; a.grade(r'\\boxed{\\sqrt{4}}', '2'); "
    code += "print([child.pid for child in psutil.Process().children()])"
    pids = json.loads(python("-c", code).stdout)
    assert pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@needs_data
def test_real_completions():
    rows = list(rows_of("cases/real_completions.jsonl"))
    wrong = [row for row in rows if grade(row["completion"], row["gold"]) != float(row["expected"])]
    assert [row for row in wrong if row["source"] == "openai/grade-school-math"] == []
    assert len(wrong) <= 1


@needs_data
@pytest.mark.parametrize(("name", "column"), [("gsm8k_test", "answer"), ("math500", "answer"), ("amc23", "answer")])
def test_every_gold_equals_itself(name, column):
    rows = rows_of(f"sets/{name}.jsonl")
    assert [row[column] for row in rows if grade(f"... {extract_or(row[column])}", row[column]) != 1.0] == []


def extract_or(gold: object) -> str:
    return str(gold) if "####" in str(gold) else rf"\boxed{{{gold}}}"
