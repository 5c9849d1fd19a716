"""Demonstrations from a served model: asked once, filtered, kept in a file."""

import json
from pathlib import Path

import pytest

from grpo.config.data import DataConfig
from grpo.data.rows import load_rows, write_jsonl
from grpo.errors import UserError
from stages.cli import main
from stages.teacher import demonstrations
from support.chat import KEY, right, stream


@pytest.fixture
def settings(tmp_path):
    questions = tmp_path / "questions.jsonl"
    write_jsonl(questions, [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(5)])
    return {
        "questions": {"path": str(questions), "suffix": " Box it.", "system": "Be brief."},
        "accept": [{"fn": "accuracy", "kwargs": {"strict": True}}],
        "file": str(tmp_path / "answers" / "teacher.jsonl"),
        "max_tokens": 64,
    }


def test_the_address_and_the_key_come_from_the_environment(chat_server, settings, monkeypatch):
    server = chat_server(right)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    demonstrations(**settings, endpoint={"model": "m"})
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_right_answers_become_conversations_and_are_asked_once(chat_server, settings):
    def reply(request, number):
        question = request["messages"][-1]["content"]
        if question.startswith("What is 3"):
            return stream("It is \\boxed{77}")  # wrong
        if question.startswith("What is 4"):
            return stream("It is \\boxed{5}", finish="length")  # cut
        return right(request)

    teacher = chat_server(reply)
    settings["endpoint"] = {"model": "m", "base_url": teacher.url}
    rows = demonstrations(**settings, samples=2)
    assert teacher.count == 10
    assert [row["messages"][1]["content"] for row in rows] == [f"What is {n} + 1? Box it." for n in range(3)]
    assert [row["messages"][2]["content"] for row in rows] == [f"It is \\boxed{{{n + 1}}}" for n in range(3)]
    assert rows[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    data = DataConfig(fn="stages.teacher.demonstrations", kwargs={**settings, "samples": 2})
    assert load_rows(data) == rows  # as cold_start.data reads it
    assert teacher.count == 10  # from the file
    assert KEY not in Path(settings["file"]).read_text()
    assert len(demonstrations(**{**settings, "file": settings["file"] + "2", "samples": 3, "keep_per_prompt": 2})) == 6


def test_a_file_of_other_settings_is_refused(chat_server, settings):
    settings["endpoint"] = {"model": "m", "base_url": chat_server(right).url}
    demonstrations(**settings)
    with pytest.raises(UserError, match="asked with other settings or questions: move the file away"):
        demonstrations(**{**settings, "max_tokens": 32})
    settings["endpoint"]["base_url"] = "http://localhost:1/v1"  # another address is the same teacher
    assert len(demonstrations(**settings)) == 5


def test_nothing_accepted_leaves_no_file(chat_server, settings):
    settings["endpoint"] = {"model": "m", "base_url": chat_server(lambda *_: stream("I do not know")).url}
    with pytest.raises(UserError, match="none of 5 answers passed 'accept'"):
        demonstrations(**settings)
    assert not Path(settings["file"]).exists()


def test_a_mistake_in_a_setting_is_named(settings):
    with pytest.raises(UserError, match="did you mean 'samples'"):
        demonstrations(**settings, endpoint={"model": "m"}, sampels=2)


def test_grpo_check_asks_once_and_says_so(chat_server, settings, tmp_path, monkeypatch, capsys):
    """The whole of the teacher's work is paid for: it is the run's to ask for."""
    monkeypatch.chdir(tmp_path)
    teacher = chat_server(lambda request, _: right(request))
    settings["endpoint"] = {"model": "m", "base_url": teacher.url}
    data = {"fn": "stages.teacher.demonstrations", "kwargs": settings}
    Path("c.yaml").write_text(json.dumps({"base": "./no-model", "cold_start": {"data": data}}))

    def line() -> str:
        main(["check", "c.yaml"])
        return next(text for text in capsys.readouterr().out.splitlines() if "data cold_start.data" in text)

    words = "the run will ask 5 questions 1 times; one was asked now, one request, and its answer is accepted"
    assert line() == f"ok       data cold_start.data: {words}"
    assert teacher.count == 1
    assert not Path(settings["file"]).exists()
    settings["accept"] = [{"fn": "format"}]
    Path("c.yaml").write_text(json.dumps({"base": "./no-model", "cold_start": {"data": data}}))
    assert "its answer is not accepted" in line()
    settings["accept"] = []
    rows = demonstrations(**settings)
    Path("c.yaml").write_text(json.dumps({"base": "./no-model", "cold_start": {"data": data}}))
    count = teacher.count
    assert line() == f"ok       data cold_start.data: {len(rows)} rows"
    assert teacher.count == count


def test_an_endpoint_that_fails_is_asked_once(chat_server, settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings["endpoint"] = {"model": "m", "base_url": "http://localhost:1/v1"}
    data = {"fn": "stages.teacher.demonstrations", "kwargs": settings}
    Path("c.yaml").write_text(json.dumps({"base": "./no-model", "cold_start": {"data": data}}))
    assert main(["check", "c.yaml"]) == 2
    assert "error    data cold_start.data: openai:m at http://localhost:1/v1" in capsys.readouterr().out
