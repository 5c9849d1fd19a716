"""A template given for a model, and values given to a template, stay with the model."""

import pytest
from transformers import AutoTokenizer

from grpo.data.baked import give_template, split_values
from grpo.errors import UserError
from support.models import make_tokenizer
from support.templates import byte_tokenizer

ASKED = [{"role": "user", "content": "Q"}, {"role": "user", "content": "R"}]
# Read in a loop and in a macro, and with white space at its beginning.
READING = (
    "  {% macro said(m) %}[{{ mood }}:{{ m['content'] }}]{% endmacro %}\n"
    "{% for m in messages %}{{ said(m) }}{{ mood | string }}{% endfor %}"
    "{% if add_generation_prompt %}{% if thinking is defined and not thinking %}off{% else %}on{% endif %}{% endif %}"
)


def text(tokenizer, **variables):
    return tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True, **variables)


@pytest.mark.parametrize(
    "mood", ["calm", 'it\'s "so" %} {{ 1 }} \\n\n é 🙂', 3, 1.5, True, None, ["a", {"b": None}], {}]
)
def test_values_are_those_that_a_caller_would_give(mood, tmp_path):
    tokenizer = byte_tokenizer(READING)
    given = text(tokenizer, mood=mood, thinking=False)
    give_template(tokenizer, None, {"mood": mood, "thinking": False})
    assert text(tokenizer) == given
    assert text(tokenizer, mood="other", thinking=True) == text(byte_tokenizer(READING), mood="other", thinking=True)
    tokenizer.save_pretrained(tmp_path)
    assert text(AutoTokenizer.from_pretrained(tmp_path)) == given
    assert split_values(tokenizer.chat_template)[1] == READING


@pytest.mark.parametrize(
    "start", ["\n", "  \n a", "{% if true %}b{% endif %}", "  {% if true %}b{% endif %}", "{#- c -#} d"]
)
def test_the_text_of_the_template_stays_what_it_was(start):
    template = start + READING
    before = text(byte_tokenizer(template), mood="calm")
    assert text(give_template(byte_tokenizer(template), None, {"mood": "calm"})) == before


def test_of_two_values_the_later_one_counts():
    tokenizer = give_template(byte_tokenizer(READING), None, {"mood": "calm"})
    assert "wild" in text(give_template(tokenizer, None, {"mood": "wild"}))


def test_a_file_is_the_template(tmp_path):
    file = tmp_path / "chat.jinja"
    file.write_text("\ufeff" + READING, encoding="utf-8")
    tokenizer = give_template(make_tokenizer(None), str(file), {"mood": "calm"})
    assert "[calm:Q]" in text(tokenizer)


@pytest.mark.parametrize(("content", "values", "problem"), [
    (None, {}, "chat.jinja': no such file"), ("", {}, "chat.jinja': the file is empty"),
    ("a\n{% if %}", {}, r"chat.jinja', line 2: no jinja template"),
    (READING, {"moods": 1}, r"the chat template reads no 'moods' .did you mean 'mood'"),
    (READING, {"messages": 1}, "'messages' is given to the template with every conversation"),
    (READING, {"bos_token": "x"}, "'bos_token' is given to the template"),
])  # fmt: skip
def test_what_would_do_nothing_is_refused(tmp_path, content, values, problem):
    file = tmp_path / "chat.jinja"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=problem):
        give_template(make_tokenizer(None), str(file), values)
    with pytest.raises(UserError, match=r"the model has no chat template: give it one by base.chat_template"):
        give_template(make_tokenizer(None), None, {"mood": "calm"})
