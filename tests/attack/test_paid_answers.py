"""Answers that were paid for are kept, whatever comes after them."""

import json
from pathlib import Path

import pytest

from grpo.data.rows import read_jsonl, write_jsonl
from grpo.errors import UserError
from grpo.evaluation.kept import Kept
from stages.cli import main
from stages.served.config import EndpointConfig
from stages.served.endpoint import Answer, Served, mended
from stages.served.evaluate import request_metrics
from stages.teacher import demonstrations
from support.chat import chunk, right, stream


@pytest.fixture
def settings(tmp_path):
    questions = tmp_path / "questions.jsonl"
    write_jsonl(questions, [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(20)])
    return {"questions": {"path": str(questions)}, "file": str(tmp_path / "t.jsonl"), "max_tokens": 64}


def test_who_is_stopped_pays_for_no_answer_again(chat_server, settings):
    """Before: all of them."""
    accept = [{"fn": "accuracy", "kwargs": {"strict": True}}]
    teacher = chat_server(lambda request, _: right(request))
    settings["endpoint"] = {"model": "m", "base_url": teacher.url, "concurrency": 1}
    plain = Kept.add

    def add(self, key, answer):
        plain(self, key, answer)
        if teacher.count == 15:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Kept, "add", add)
        with pytest.raises(KeyboardInterrupt):
            demonstrations(**settings, accept=accept)
    asked = Path(settings["file"] + ".asked")
    with asked.open("ab") as file:
        file.write(b'{"made_with": "half a li')  # a kill in the middle of the next
    with pytest.raises(UserError, match="passed 'accept'"):
        demonstrations(**settings, accept=[{"fn": "format"}])
    rows = demonstrations(**settings, accept=accept)
    assert teacher.count == 20
    assert [row["messages"][1]["content"] for row in rows] == [f"It is \\boxed{{{n + 1}}}" for n in range(20)]
    assert not asked.exists()


def test_answers_that_no_filter_took_are_not_asked_for_again(chat_server, settings):
    teacher = chat_server(lambda request, _: right(request))
    settings["endpoint"] = {"model": "m", "base_url": teacher.url}
    with pytest.raises(UserError, match=r"none of 20 answers passed 'accept'; they are in '.*t\.jsonl\.asked'"):
        demonstrations(**settings, accept=[{"fn": "format"}])
    assert len(demonstrations(**settings, accept=[{"fn": "accuracy"}])) == 20
    assert teacher.count == 20


def test_answers_to_other_questions_are_not_taken(chat_server, settings):
    settings["endpoint"] = {"model": "m", "base_url": chat_server(lambda request, _: right(request)).url}
    with pytest.raises(UserError, match="passed 'accept'"):
        demonstrations(**settings, accept=[{"fn": "format"}])
    with pytest.raises(UserError, match=r"t\.jsonl\.asked': these answers were asked with other settings"):
        demonstrations(**settings, temperature=0.1)


def test_a_stream_that_cuts_an_emoji_in_two(chat_server, settings):
    """Before: 20 of 20 answered, UnicodeEncodeError, nothing kept."""
    halves = [chunk(content="It is \ud83d"), chunk(content="\ude00 and \ude00")]
    settings["endpoint"] = {"model": "m", "base_url": chat_server(lambda *_: [*halves, *stream("")]).url}
    rows = demonstrations(**settings)
    assert {row["messages"][-1]["content"] for row in rows} == {"It is \U0001f600 and \ufffd"}


def test_halves_of_characters():
    assert mended("a\ud83d\ude00b") == "a\U0001f600b"
    assert mended("a\ud83d") == "a\ufffd"
    assert mended("กิ😀") == "กิ😀"
    assert mended("\ufeffa") == "\ufeffa"


def stopped_after(patch, server, count):
    plain = Kept.add

    def add(self, key, answer):
        plain(self, key, answer)
        if server.count == count:
            raise KeyboardInterrupt

    patch.setattr(Kept, "add", add)


def test_an_evaluation_that_is_stopped_pays_for_no_answer_again(chat_server, tmp_path, capsys):
    """Before: 100 requests again, after a kill at 95 of 100."""
    write_jsonl(tmp_path / "q.jsonl", [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(50)])
    server = chat_server(lambda request, _: right(request))
    words = ["eval", "openai:m", "--data", str(tmp_path / "q.jsonl"), "--base-url", server.url, "--samples", "2"]
    words += ["endpoint.concurrency=1", "--out", str(tmp_path / "e.json")]
    with pytest.MonkeyPatch.context() as patch:
        stopped_after(patch, server, 95)
        assert main(words) == 130
    with (tmp_path / "e.json.asked").open("ab") as file:
        file.write(b'{"made_with": "half a li')
    capsys.readouterr()
    for other in (["--temperature", "0.1"], ["--seed", "1"], ["--limit", "40"], ["eval.data.suffix=now"]):
        assert main([*words, *other]) == 2
        assert "e.json.asked': these answers were asked with other settings" in capsys.readouterr().err
    assert main(words) == 0
    assert server.count == 100
    metrics = json.loads((tmp_path / "e.json").read_text())
    assert (metrics["pass@1"], metrics["requests"], metrics["retries"]) == (1.0, 100, 0)
    assert not (tmp_path / "e.json.asked").exists()
    assert len(read_jsonl(tmp_path / "e.completions.jsonl")) == 100


def test_the_rate_is_of_what_was_asked_now():
    """The clock of an earlier try is not known."""
    answers = {(0, sample): Answer("x", "stop", 1, 7, 0.1, 0.2) for sample in range(3)}
    metrics = request_metrics(Served(answers, asked=[(0, 2)], seconds=1.0), EndpointConfig(model="m"))
    assert (metrics["tokens_per_second"], metrics["completion_tokens"]) == (7.0, 21)
    assert request_metrics(Served(answers, seconds=0.0), EndpointConfig(model="m"))["tokens_per_second"] is None
