"""Trained ids: the prompt's are those of generation, the answer's those of the whole text or as sampled after it."""

import logging

import pytest

from grpo.data.conversations import IGNORE, build_examples
from grpo.errors import UserError
from support.chat import assistant, user
from support.templates import byte_tokenizer, metaspace_tokenizer

MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "<bos>{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
TALK = [user("Two and two"), assistant("The four"), user("and 12"), assistant("It is so")]
TEMPLATES = {"mistral": MISTRAL, "gemma": GEMMA}


def whole(tokenizer, talk):
    text = tokenizer.apply_chat_template(talk, tokenize=False).removesuffix("\n")
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def prompt_ids(tokenizer, talk):
    text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("scheme", ["first", "always"])
def test_a_blank_before_every_text_is_trained_only_where_the_template_has_one(template, scheme):
    tokenizer = metaspace_tokenizer(TEMPLATES[template], scheme=scheme)
    (example,) = build_examples([{"messages": TALK}], tokenizer)
    assert example.input_ids == whole(tokenizer, TALK)
    for turn in (1, 3):
        start = prompt_ids(tokenizer, TALK[:turn])
        assert example.input_ids[: len(start)] == start
    trained = tokenizer.convert_ids_to_tokens([label for label in example.labels if label != IGNORE])
    ends = [place for place, token in enumerate(trained) if token in ("</s>", "<end_of_turn>")]
    assert len(ends) == 2
    assert ends[-1] == len(trained) - 1
    first = "".join(trained[: ends[0]])
    # "first" puts a blank before the text as a whole only, "always" also after each special token.
    assert first == ("▁The▁four" if template == "mistral" else "The▁four")


def test_an_answer_that_would_merge_with_the_prompt_is_trained_as_it_is_sampled(caplog):
    chatml = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    for make in (byte_tokenizer, metaspace_tokenizer):
        tokenizer = make(chatml)
        talk = [user("Two"), assistant("\nYes"), user("and"), assistant("four")]
        assert "\n\n" in [tokenizer.decode(token) for token in tokenizer("then\n\nand")["input_ids"]]
        with caplog.at_level(logging.WARNING, "grpo"):
            examples = build_examples([{"messages": talk}], tokenizer)
        assert "1 of 1 conversations" in caplog.text
        caplog.clear()
        for turn, example in zip((1, 3), examples, strict=True):
            start = prompt_ids(tokenizer, talk[:turn])
            assert example.input_ids[: len(start)] == start
            assert example.labels[: len(start)] == [IGNORE] * len(start)
            # What decodes to the answer after the prompt: no blank of the tokenizer's own.
            assert tokenizer.decode(example.input_ids) == tokenizer.decode(start) + talk[turn]["content"] + "<|im_end|>"


def test_byte_tokenizers_train_what_they_did():
    tokenizer = byte_tokenizer(GEMMA)
    (example,) = build_examples([{"messages": TALK}], tokenizer)
    pieces = ["<bos><start_of_turn>user\nTwo and two<end_of_turn>\n<start_of_turn>model\n", "The four<end_of_turn>"]
    pieces += ["\n<start_of_turn>user\nand 12<end_of_turn>\n<start_of_turn>model\n", "It is so<end_of_turn>"]
    apart = [tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in pieces]
    assert example.input_ids == [i for ids in apart for i in ids]
    assert example.labels == [i if n % 2 else IGNORE for n, ids in enumerate(apart) for i in ids]


def test_what_the_tokenizer_cannot_write_is_refused():
    from support.models import make_tokenizer

    row = {"messages": [user("two"), assistant("สี่ is four")]}
    with pytest.raises(UserError, match=r"row 0: the tokenizer writes .*this text cannot be trained"):
        build_examples([row], make_tokenizer())
