"""A template is another's program: whatever it raises is one line, and the date it prints is that of the run."""

import json
import os
from datetime import datetime
from typing import Any

import pytest

import grpo
from grpo.config.data import DataConfig, EvalConfig
from grpo.data import rendering
from grpo.data.conversations import build_examples
from grpo.data.prompts import build_prompts
from grpo.data.rendering import dated
from grpo.errors import UserError
from grpo.evaluation.evaluate import evaluate
from grpo.evaluation.metrics import Judges
from rewards.loader import load_reward
from support.models import CHAT_TEMPLATE, make_tokenizer, save_model
from support.runs import length

TODAY = CHAT_TEMPLATE.replace("<s>", "<s>{{ strftime_now('%d.%m.%Y') }} ")
DATA = DataConfig(path="d")
ROWS = [{"prompt": "two and two", "answer": "4"}]
REFUSING = {
    "tools are wanted": "{% if not tools %}{{ raise_exception('tools are required') }}{% endif %}",
    "a TypeError": "{{ 'x' + none }}",
    "an undefined name": "{{ nothing.at.all }}",
    "a missing key": "{{ {}['x'].y }}",
    "an error of Python": "{{ messages[0]['content'].index('absent') }}",
    "a division": "{{ 1 / 0 }}",
    "loops for ever": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "without end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "not jinja": "{% for m in messages %}{{ m }",
    "unsafe": "{{ messages.__class__.__mro__ }}{{ messages.append(1) }}",
    "several lines": "{{ raise_exception('first\nsecond') }}",
}


def fix_clock(monkeypatch: pytest.MonkeyPatch, day: int) -> None:
    class Fixed(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2026, 11, day, 23, 59)

    monkeypatch.setattr(rendering, "datetime", Fixed)


def text_of(tokenizer: Any) -> str:
    (prompt,) = build_prompts(ROWS, DATA, tokenizer)
    assert prompt.text is not None
    return prompt.text


@pytest.mark.parametrize("template", REFUSING.values(), ids=REFUSING)
def test_whatever_a_template_raises_is_one_line(template):
    tokenizer = make_tokenizer(template)
    for build in (lambda: build_prompts(ROWS, DATA, tokenizer),
                  lambda: build_examples([{"prompt": "a", "completion": "b"}], tokenizer)):  # fmt: skip
        with pytest.raises(UserError, match="the model's chat template refuses this conversation") as refused:
            build()
        assert "\n" not in str(refused.value)


def test_named_templates_need_a_default():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = {"tool_use": CHAT_TEMPLATE, "rag": CHAT_TEMPLATE}
    with pytest.raises(UserError, match=r"has chat templates \(rag, tool_use\) and none of them is the default"):
        build_prompts(ROWS, DATA, tokenizer)
    tokenizer.chat_template |= {"default": CHAT_TEMPLATE}
    assert text_of(tokenizer) == text_of(make_tokenizer())


@pytest.mark.parametrize("data", [DATA, DataConfig(path="d", template="{prompt}")])
def test_half_a_character_is_named(data):
    """A JSON string cut inside a pair of surrogates; it would have failed in the tokenizer."""
    rows = [*ROWS, json.loads(r'{"prompt": "smile \ud83d", "answer": "1"}')]
    with pytest.raises(UserError, match=r"row 1: the text holds half a character, \\ud83d"):
        build_prompts(rows, data, make_tokenizer())


def test_a_template_that_writes_half_a_character_is_refused():
    with pytest.raises(UserError, match=r"half a character, \\udc00"):
        text_of(make_tokenizer(CHAT_TEMPLATE + "{{ '\\udc00' }}"))


def test_the_date_of_a_run_is_that_of_its_first_start(tmp_path, monkeypatch):
    tokenizer = make_tokenizer(TODAY)
    fix_clock(monkeypatch, 28)
    with dated(tmp_path):
        first = text_of(tokenizer)
    fix_clock(monkeypatch, 29)
    with dated(tmp_path):
        assert text_of(tokenizer) == first
        assert "28.11.2026" in first
    assert "29.11.2026" in text_of(tokenizer)  # outside of any run


def test_a_run_that_never_asks_keeps_no_date(tmp_path):
    with dated(tmp_path):
        text_of(make_tokenizer())
    assert not list(tmp_path.iterdir())


def test_a_run_from_before_dates_were_kept_began_with_its_oldest_file(tmp_path):
    (tmp_path / "0-base").mkdir()
    for name, day in (("a", 20), ("b", 10)):
        file = tmp_path / "0-base" / name
        file.touch()
        os.utime(file, (datetime(2026, 10, day).timestamp(),) * 2)
    with dated(tmp_path):
        assert "10.10.2026" in text_of(make_tokenizer(TODAY))
    assert (tmp_path / "date.txt").read_text() == "2026-10-10\n"


def test_a_spoilt_date_is_said(tmp_path):
    (tmp_path / "date.txt").write_text("yesterday")
    with dated(tmp_path), pytest.raises(UserError, match=r"date.txt': no date like"):
        text_of(make_tokenizer(TODAY))


def test_training_goes_on_after_midnight(tmp_path, monkeypatch):
    """It was refused: the prompts were others."""
    save_model(tmp_path / "base")
    make_tokenizer(TODAY).save_pretrained(tmp_path / "base")
    settings = {
        "model": str(tmp_path / "base"), "out": str(tmp_path / "run"), "steps": 2, "group_size": 2,
        "prompts_per_step": 1, "sampling": {"max_tokens": 4}, "checkpoint": {"every": 1}, "runtime": {"device": "cpu"},
    }  # fmt: skip
    fix_clock(monkeypatch, 28)
    grpo.train(settings, [length], ROWS)
    (tmp_path / "run" / "model").rename(tmp_path / "run" / "lost")  # as if it had not come so far
    fix_clock(monkeypatch, 29)
    assert grpo.train(settings, [length], ROWS).steps == 2


def test_an_evaluation_says_which_date_its_prompts_held(tmp_path, monkeypatch):
    """That of the run which made the model, else today's."""
    save_model(tmp_path / "run" / "1-stage" / "model")
    fix_clock(monkeypatch, 29)
    config = EvalConfig(data=DataConfig(path="d"), samples=1, max_tokens=2)

    def found(tokenizer: Any) -> Any:
        tokenizer.save_pretrained(tmp_path / "run" / "1-stage" / "model")
        model = str(tmp_path / "run" / "1-stage" / "model")
        return evaluate(model, config, judges=Judges(load_reward("accuracy")), rows=ROWS).metrics

    assert found(make_tokenizer())["template_date"] is None
    today = found(make_tokenizer(TODAY))
    assert today["template_date"] == "2026-11-29"
    (tmp_path / "run" / "date.txt").write_text("2026-11-28\n")
    its = found(make_tokenizer(TODAY))
    assert its["template_date"] == "2026-11-28"
    assert its["template_hash"] == today["template_hash"]  # the same template on another day
