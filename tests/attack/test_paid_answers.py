"""Answers that were paid for are kept, whatever comes after them."""

from pathlib import Path

import pytest

from grpo.data.rows import write_jsonl
from grpo.errors import UserError
from stages.served.endpoint import Kept, mended
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
