"""The judge: what it asks and makes of the verdicts in each of its modes, its options, and the ways in."""

import sys
from functools import partial
from pathlib import Path

import pytest

from grpo.config.data import RewardConfig
from grpo.data.rows import read_jsonl, write_jsonl
from grpo.errors import UserError
from rewards import load_reward
from rewards.judge.reward import Judge
from stages.cli import main
from stages.recipe.preflight import check_reward
from support.chat import serving, status
from support.command import refused
from support.judge import KEY, fenced, honest, judged, request_id, verdict

ROOT = Path(__file__).resolve().parents[2]


def test_reference():
    with serving(honest) as server:
        texts = ["It is 4", "It is 5", "<think>4</think>6", "<think>6</think>4"]
        assert judged(server, texts) == ([1.0, 0.0, 0.0, 1.0], {})
        body = server.bodies[0]
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.0, 2048)
        schema = body["response_format"]["json_schema"]
        assert list(schema["schema"]["properties"]) == ["id", "analysis", "verdict"]
        assert schema["schema"]["additionalProperties"] is False
        assert (fenced(body, "question"), fenced(body, "reference")) == ("2+2?", "4")
        sent = {fenced(body, "answer") for body in server.bodies}
        assert sent == {"It is 4", "It is 5", "6", "4"}  # only what follows the thinking
        judged(server, ["<think>a</think>b"], part="response", response_format="none", extra_body={"top_k": 3})
        assert fenced(server.bodies[-1], "answer") == "<think>a</think>b"
        assert server.bodies[-1]["top_k"] == 3
        assert "response_format" not in server.bodies[-1]


def test_golds_of_any_shape_and_prompts_as_messages():
    columns = {"gold": [["4", None, "four"], 4, None, " ", []], "kind": ["math"] * 5}
    prompt = [{"role": "user", "content": "2+2?"}]
    talk = [*prompt, {"role": "assistant", "content": "3"}, {"role": "user", "content": "really?"}]
    texts = [[{"role": "assistant", "content": "is 4"}]] * 5
    with serving(honest) as server:
        values, errors = judged(server, texts, [talk, prompt, *[prompt] * 3], columns, reference="gold")
        assert values == [0.0, 1.0, None, None, None]
        assert errors == dict.fromkeys([2, 3, 4], "judge: no reference answer")
        by_reference = {fenced(body, "reference"): fenced(body, "question") for body in server.bodies}
        assert by_reference == {"4\nor: four": "user: 2+2?\n\nassistant: 3\n\nuser: really?", "4": "2+2?"}


def test_votes_are_counted_and_a_tie_is_no_majority():
    for votes, right, value in ((3, 2, 1.0), (3, 1, 0.0), (4, 2, 0.0), (4, 3, 1.0)):

        def answer(body, number, right=right):
            return verdict(body, verdict="correct" if number < right else "incorrect")

        with serving(answer) as server:
            assert judged(server, ["x"], votes=votes, temperature=0.7) == ([value], {})
            assert server.count == votes
            assert len({request_id(body) for body in server.bodies}) == votes  # a new id every time


def test_rubric():
    criteria = {"helpful": "Does it help?", "is it clear?": "Is it clear?"}
    scores = {"good": [7, 7], "bad": [1, 1], "mixed": [4, 7]}

    def answer(body, number):
        return verdict(body, scores=dict(zip(criteria, scores[fenced(body, "answer")], strict=True)))

    with serving(answer) as server:
        values, errors = judged(server, list(scores), columns={}, mode="rubric", criteria=criteria)
        assert (values, errors) == ([1.0, 0.0, 0.75], {})
        assert "- is it clear?: Is it clear?" in server.bodies[0]["messages"][0]["content"]
    wrong = ([8, 1], [0, 1], [True, 1], ["7/7", 7], [6.5, 7], [7, None])
    for numbers in wrong:
        with serving(lambda body, _, n=numbers: verdict(body, scores=dict(zip(criteria, n, strict=True)))) as server:
            values, errors = judged(server, ["x"], columns={}, mode="rubric", criteria=criteria)
            assert values == [None]
            assert "no verdict in the reply: scores." in errors[0]
            assert server.count == 3


def prefers(text):
    def answer(body, number):
        pair = {"A": fenced(body, "answer-A"), "B": fenced(body, "answer-B")}
        return verdict(body, winner=next((name for name, shown in pair.items() if shown == text), "tie"))

    return answer


def test_pairwise_order_is_drawn_by_seed_and_balanced():
    columns = {"base": ["<think>no</think>old"] * 40}
    texts = [f"new {row}" for row in range(40)]
    options = {"mode": "pairwise", "reference": "base", "concurrency": 1}

    def first_orders(**more):
        """Whether the answer came first in each row's first request; all requests are balanced."""
        with serving(prefers("old")) as server:
            assert judged(server, texts, columns=columns, **options, **more) == ([0.0] * 40, {})
            shown = [(fenced(body, "answer-A"), fenced(body, "answer-B")) for body in server.bodies]
        assert len(shown) == 80
        assert sum(b == "old" for _, b in shown) == 40
        row_first = {}
        for a, b in shown:
            row_first.setdefault(a if b == "old" else b, b == "old")
        assert list(row_first) == texts
        return list(row_first.values())

    orders = first_orders()
    assert 8 <= sum(orders) <= 32  # 40 fair coins: four standard deviations
    assert first_orders() == orders
    assert first_orders(seed=1) != orders


def test_pairwise_values():
    options = {"mode": "pairwise", "reference": "base", "columns": {"base": ["old"]}}
    with serving(prefers("new")) as server:
        assert judged(server, ["new"], **options) == ([1.0], {})
        assert server.count == 2
        assert judged(server, ["new"], **options, votes=4, temperature=1.0) == ([1.0], {})
        assert server.count == 6
        assert judged(server, ["old"], **options) == ([0.5], {})  # the same text: a tie, without a request
        assert judged(server, ["other"], **options) == ([0.5], {})
        assert server.count == 8
    for always in ("A", "B"):  # a judge that only likes a position
        with serving(lambda body, _, always=always: verdict(body, winner=always)) as server:
            columns = {"base": ["old"] * 8}
            options = {"mode": "pairwise", "reference": "base", "columns": columns}
            assert judged(server, [f"new {row}" for row in range(8)], **options) == ([0.5] * 8, {})
    with serving(prefers("new")) as server:
        values, errors = judged(server, ["new"] * 2, columns={"base": [None, ["x"]]}, mode="pairwise", reference="base")
        assert (values, set(errors.values())) == ([None, None], {"judge: no completion to compare with"})


def points(body, number, liking=0):
    """Points by the length of each answer, and `liking` more for the one that stands first."""
    lengths = {name: len(fenced(body, f"answer-{name}")) for name in "AB"}
    return verdict(body, points={"A": min(10, lengths["A"] + liking), "B": lengths["B"]})


def test_points_are_the_mean_difference_of_both_orders():
    options = {"mode": "points", "reference": "base", "columns": {"base": ["four"]}, "votes": 4, "temperature": 1.0}
    with serving(partial(points, liking=2)) as server:
        assert judged(server, ["sevenss"], **options) == ([3.0], {})  # a liking for a place cancels
        assert server.count == 4
        assert sum(fenced(body, "answer-A") == "sevenss" for body in server.bodies) == 2
        schema = server.bodies[0]["response_format"]["json_schema"]["schema"]
        assert list(schema["properties"]) == ["id", "analysis", "points"]
        for text, value in (("four", 0.0), ("", -9.0), ("Solution:", -9.0)):
            assert judged(server, [text], **options) == ([value], {})
        assert judged(server, ["a"], **{**options, "columns": {"base": [":"]}}) == ([9.0], {})
        assert server.count == 4
    for wrong in ({"A": 0, "B": 4}, {"A": 11, "B": 4}, {"A": 4}, {"A": 6.5, "B": 4}, {"A": 4, "B": 4, "C": 4}):
        with serving(lambda body, _, wrong=wrong: verdict(body, points=wrong)) as server:
            assert judged(server, ["new"], **options)[0] == [None]


def test_votes_that_came_are_remembered(tmp_path):
    """Before: who was stopped paid for all of them again."""
    file = tmp_path / "made" / "votes.jsonl"
    options = {"mode": "points", "reference": "base", "votes": 4, "temperature": 1.0, "remember": str(file)}
    columns = {"base": ["four"] * 3}
    broken = lambda body, number: status(500) if number >= 6 else points(body, number)  # noqa: E731
    with serving(broken) as server:
        values, _ = judged(server, ["one", "three", "sevens"], columns=columns, **options, concurrency=1, retries=0)
        assert None in values
    with file.open("a") as half:
        half.write('{"made_with": "half a li')  # a kill in the middle of the next
    with serving(points) as server:
        assert judged(server, ["one", "three", "sevens"], columns=columns, **options)[0] == [-1.0, 1.0, 2.0]
        assert server.count == 12 - 6
        assert judged(server, ["one", "three", "sevens"], columns=columns, **options)[0] == [-1.0, 1.0, 2.0]
        assert server.count == 6
        assert judged(server, ["one"], columns={"base": ["four"]}, **{**options, "model": "other"})[0] == [-1.0]
        assert server.count == 10  # another judge has its own opinion


def test_applies_to():
    columns = {"answer": ["4"] * 3, "kind": ["open", "rule", "open"]}
    with serving(honest) as server:
        chosen = {"column": "kind", "values": ["open"]}
        assert judged(server, ["4", "4", "5"], columns=columns, applies_to=chosen) == ([1.0, None, 0.0], {})
        assert server.count == 2
        with pytest.raises(UserError, match="applies_to: the data has no column 'knd'"):
            judged(server, ["4"], applies_to={"column": "knd", "values": ["open"]})
        with pytest.raises(UserError, match="no column 'gold' to judge against"):
            judged(server, ["4"], reference="gold")


# ---- options, and the ways in

URL = "http://localhost:8000/v1"


@pytest.mark.parametrize(("options", "message"), [
    ({"mode": "refrence"}, "reward 'judge': 'mode': Input should be 'reference', 'rubric', 'pairwise' or 'points',"),
    ({"base_url": None}, "give base_url"), ({"model": ""}, "'model'"),
    ({"base_url": "localhost:8000"}, "base_url must be an address like"),
    ({"base_url": "http://me:hunter2@host/v1"}, "base_url must not hold a user, a password"),
    ({"base_url": "http://host/v1?api-key=hunter2"}, "must not hold .* a query"),
    ({"key_env": "NO_SUCH_KEY"}, "key_env 'NO_SUCH_KEY' names no environment variable that is set"),
    ({"key_env": "gsk_hunter2"}, r"key_env names no environment variable that is set \(give its name, not the key"),
    ({"key_env": "BAD_KEY"}, "the value of 'BAD_KEY' has characters"),
    ({"mode": "rubric"}, "mode rubric needs 'criteria'"),
    ({"criteria": {"a": "b"}}, "'criteria' does nothing in mode reference"),
    ({"mode": "rubric", "criteria": {"a": "b"}, "reference": "x"}, "'reference' does nothing in mode rubric"),
    ({"seed": 1}, "'seed' does nothing in mode reference"),
    ({"mode": "rubric", "criteria": {"a": None}}, "'criteria.a'"),
    ({"mode": "pairwise"}, "mode pairwise needs 'reference'"),
    ({"mode": "pairwise", "reference": "x", "votes": 3, "temperature": 1}, "'votes' must be even, not 3"),
    ({"mode": "points"}, "mode points needs 'reference'"),
    ({"mode": "points", "reference": "x", "votes": 4}, "4 votes at temperature 0 are the same vote"),
    ({"votes": 3}, "3 votes at temperature 0 are the same vote"), ({"votes": True}, "'votes'.*must be a number"),
    ({"concurrency": 0}, "'concurrency'"), ({"timeout": "soon"}, "'timeout'"),
    ({"max_seconds": 600}, "'max_seconds'.*less than 600"), ({"part": "summary"}, "'part'"),
    ({"applies_to": {"column": "x"}}, "applies_to must hold 'column' and 'values'"),
    ({"applies_to": {"column": "x", "values": "open"}}, "'values' must be a list"),
])  # fmt: skip
def test_wrong_options(options, message, monkeypatch):
    monkeypatch.setenv("BAD_KEY", "hunter2 ü")
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    kwargs = {"base_url": URL, "model": "m", **options}
    for make in (lambda: Judge(**kwargs), lambda: load_reward({"fn": "judge", "kwargs": kwargs})):
        with pytest.raises(UserError, match=message) as found:
            make()
        assert "\n" not in str(found.value)
        assert "hunter2" not in str(found.value)
        assert "hunter2" not in repr(found.value.__cause__)
    with pytest.raises(UserError, match=message):  # before a run starts
        check_reward(RewardConfig(fn="judge", kwargs=kwargs), Path("runs/x"))


def test_missing_and_misspelt_options():
    with pytest.raises(UserError, match="kwargs: 'model' is required"):
        load_reward({"fn": "judge", "kwargs": {"base_url": URL}})
    with pytest.raises(UserError, match=r"kwargs: no option 'api_key' \(") as found:
        load_reward({"fn": "judge", "kwargs": {"base_url": URL, "model": "m", "api_key": KEY}})
    assert KEY not in str(found.value)
    with pytest.raises(UserError, match="unknown key 'api_key'") as found:
        Judge(base_url=URL, model="m", api_key=KEY)
    assert KEY not in str(found.value)


def test_preflight_accepts_a_judge_without_asking_it():
    with serving(honest) as server:
        for options in ({}, {"mode": "pairwise", "reference": "base"}, {"model": "/models/judge"}):
            kwargs = {"base_url": server.url, "model": "org/name", **options}
            check_reward(RewardConfig(fn="judge", kwargs=kwargs), Path("runs/x"))
        assert server.count == 0


def test_a_run_with_wrong_judge_options_fails_before_it_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "configs" / "tiny.yaml").read_text(encoding="utf-8")
    assert "- {fn: language}" in text
    wrong = "- {fn: judge, kwargs: {base_url: 'http://localhost:1/v1', model: m, mode: rubric}}"
    (tmp_path / "my.yaml").write_text(text.replace("- {fn: language}", wrong, 1), encoding="utf-8")
    line = refused(capsys, main(["run", "my.yaml", "--out", "out"]))
    assert "reasoning_rl.tasks." in line
    assert "reward 'judge': mode rubric needs 'criteria'" in line
    assert not (tmp_path / "out").exists()


OWN = """
from rewards.judge.reward import Judge

judge = Judge(base_url={url!r}, model="m", key_env="MY_JUDGE_KEY", retries=0)

async def judge_open(prompts, completions, log_error=None, **columns):
    return await judge(prompts, completions, log_error=log_error, **columns)
"""


def test_grpo_score_with_an_own_function(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    rows = [{"prompt": "2+2?", "completion": text, "answer": "4"} for text in ("4", "5", "", "broken")]
    write_jsonl(tmp_path / "rows.jsonl", rows)

    def answer(body, number):
        return status(500, f"told you, {KEY}") if fenced(body, "answer") == "broken" else honest(body, number)

    names = ["my_judge_file.judge", "my_judge_file.judge_open"]  # the object itself, and a function around it
    with serving(answer) as server:
        (tmp_path / "my_judge_file.py").write_text(OWN.format(url=server.url))
        command = ["score", "rows.jsonl", "--reward", names[0], "--reward", names[1], "--out", "out.jsonl"]
        assert main(command) == 0
    sys.modules.pop("my_judge_file")
    lines = read_jsonl(tmp_path / "out.jsonl")
    assert [line["rewards"] for line in lines] == [dict.fromkeys(names, value) for value in (1.0, 0.0, 0.0, None)]
    assert lines[3]["errors"] == dict.fromkeys(names, "judge: HTTP 500: told you, ***")
    captured = capsys.readouterr()
    assert KEY not in captured.out + captured.err
    assert all(KEY.encode() not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
