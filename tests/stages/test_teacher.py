"""Demonstrations from a served model: asked once, filtered, kept in a file."""

from pathlib import Path

import pytest

from grpo.config.data import DataConfig
from grpo.data.rows import load_rows, write_jsonl
from grpo.errors import UserError
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
