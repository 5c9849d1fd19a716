"""What kinds of templates do besides the ones that ship: each was refused with a false reason, or trained wrongly."""

from types import SimpleNamespace

import pytest

from grpo.config.data import DataConfig
from grpo.data.conversations import IGNORE, build_examples
from grpo.data.prompts import build_prompts
from grpo.errors import UserError
from stages.check.shown import show_trained
from support.chat import assistant, system, user
from support.templates import byte_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL = (  # the system message stands with the last user's, as long as nothing follows it
    "{% set first = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}<s>{% for m in messages %}"
    "{% if m['role'] == 'user' %}[INST]{{ first + '\n\n' if loop.last and first else '' }}{{ m['content'] }}[/INST]"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
)
QWEN15 = (  # a turn is ended by what follows it
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}{% if (loop.last and add_generation_prompt) "
    "or not loop.last %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt and messages[-1]['role'] != "
    "'assistant' %}<|im_start|>assistant\n{% endif %}"
)
DEEPSEEK = (  # without thinking the prompt closes a thought that nothing opened
    "<s>{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}{% else %}<|assistant|></think>"
    "{{ m['content'] }}<|endoftext|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>"
    "{{ '<think>' if thinking else '</think>' }}{% endif %}"
)
NEMOTRON = CHATML.replace(  # opens the thought of the last turn itself, and wants the rest of it as content
    "\n{{ m['content'] }}",
    "\n{{ '<think>\n' if loop.last and m['role'] == 'assistant' }}{{ m['content'] }}",
).replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
NORTH = (  # thoughts in tags of its own, always opened
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['reasoning'] %}<|START_THINKING|>{{ m['reasoning'] }}"
    "<|END_THINKING|>{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<|START_THINKING|>{% endif %}"
)
BLANKS = CHATML.replace("\n{{ m", "\n{% if m['reasoning'] %}<think>\n{{ m['reasoning'] }}\n</think>\n{% endif %}{{ m")
CALLED = CHATML.replace(
    "{{ m['content'] }}",
    "{{ m['content'] or '' }}{% for call in m['tool_calls'] or [] %}<tool_call>{{ call.function | tojson }}</tool_call>"
    "{% endfor %}",
)
CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 17}'}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
REPLY = {"role": "tool", "content": 'It\'s "29"\n'}
END = "<|im_end|>"


def written(template, *messages, **row):
    """(prompt and what is trained after it) of each example."""
    tokenizer = byte_tokenizer(template)
    found = []
    for example in build_examples([{"messages": list(messages), **row}], tokenizer):
        start = next(place for place, label in enumerate(example.labels) if label != IGNORE)
        found.append((tokenizer.decode(example.input_ids[:start]), tokenizer.decode(example.input_ids[start:])))
    return found


def test_a_system_message_that_stands_with_the_last_question():
    first, second = written(MISTRAL, system("Be kind"), user("Q"), assistant("A"), user("R"), assistant("B"))
    assert first == ("<s>[INST]Be kind\n\nQ[/INST]", "A</s>")
    assert second == ("<s>[INST]Q[/INST]A</s>[INST]Be kind\n\nR[/INST]", "B</s>")


def test_check_shows_what_is_trained_of_a_row_in_all_its_examples():
    rows = [{"messages": [system("Be kind"), user("Q"), assistant("A"), user("R"), assistant("B")]}]
    shown = show_trained("d", rows, SimpleNamespace(tokenizer=byte_tokenizer(MISTRAL)))
    assert shown.splitlines()[1:] == ["A</s>", "B</s>"]


def test_an_end_that_only_what_follows_writes():
    assert written(QWEN15, user("Q"), assistant("A")) == [
        (f"<|im_start|>user\nQ{END}\n<|im_start|>assistant\n", f"A{END}")
    ]
    ((_, said),) = written(QWEN15, user("Q"), assistant("A"), user("R"), assistant("B"))
    assert said == f"A{END}\n<|im_start|>user\nR{END}\n<|im_start|>assistant\nB{END}"


@pytest.mark.parametrize("question", ["Q", "think", "Assistant"])
def test_a_thought_that_is_closed_and_was_not_opened(question):
    thought = assistant("<think>so</think>A")
    assert written(DEEPSEEK, user(question), assistant("A"))[0][1] == "A<|endoftext|>"
    with pytest.raises(UserError, match=r"closes the thought .'</think>'.*thinking: true in base"):
        written(DEEPSEEK, user(question), thought)
    on = {"chat_template_kwargs": {"thinking": True}}
    assert written(DEEPSEEK, user(question), thought, **on)[0][1] == "so</think>A<|endoftext|>"


@pytest.mark.parametrize("question", ["Q", "think", "t", "assistant"])
def test_what_a_question_says_does_not_hide_that_the_thought_is_closed(question):
    closing = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n\n</think>\n\n{% endif")
    with pytest.raises(UserError, match="the generation prompt closes the thought"):
        written(closing, user(question), assistant("<think>so</think>A"))


@pytest.mark.parametrize(("template", "message", "trained"), [
    (NEMOTRON, assistant("A"), "\n</think>\n\nA"),
    (NEMOTRON, assistant("<think>\nso\n</think>\n\nA"), "so\n</think>\n\nA"),
    (NORTH, assistant("A"), "<|END_THINKING|>A"),
    (NORTH, assistant("<think>so</think>A"), "so<|END_THINKING|>A"),
    (BLANKS.replace("assistant\n{% endif", "assistant\n<think>\n\n{% endif"), assistant("<think>so</think>A"),
     "so\n</think>\nA"),
    (BLANKS.replace("assistant\n{% endif", "assistant\n\n{% endif"), assistant("A"), "A"),
])  # fmt: skip
def test_a_thought_that_is_opened_otherwise_is_gone_on_with_or_closed(template, message, trained):
    assert [said for _, said in written(template, user("Q"), message)] == [trained + END]


@pytest.mark.parametrize("message", [
    assistant("") | {"weight": 0},
    assistant(f"cut{END}") | {"train": False},
    assistant("<think>one</think>A") | {"reasoning": "two", "weight": 0},
])  # fmt: skip
def test_what_is_not_trained_need_not_be_trainable(message):
    ((prompt, said),) = written(CHATML, user("Q"), message, user("R"), assistant("B"))
    assert said == f"B{END}"
    assert message["content"] in prompt


def test_a_reply_of_a_tool_that_the_template_leaves_out_is_missed():
    silent = CALLED.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'tool' %}")
    for read in (written, prompt_of):
        with pytest.raises(UserError, match="does not write what the tool says"):
            read(silent, user("Q"), CALLS, REPLY, assistant("A"))
    escaped = CALLED.replace(
        "{{ m['content'] or '' }}", "{{ m['content'] | tojson if m['role'] == 'tool' else m['content'] or '' }}"
    )
    assert len(written(escaped, user("Q"), CALLS, REPLY, assistant("A"))) == 1


def prompt_of(template, *messages):
    (prompt,) = build_prompts([{"messages": list(messages)}], DataConfig(path="d"), byte_tokenizer(template))
    return prompt.text


@pytest.mark.parametrize(("template", "messages"), [
    (CALLED, [user("Q"), CALLS, REPLY, assistant("A")]),
    (BLANKS, [user("Q"), assistant("A") | {"thinking": "so"}, user("R"), assistant("B")]),
    (BLANKS, [user("Q"), assistant("A") | {"reasoning_content": "so", "weight": 0}, user("R"), assistant("B")]),
])  # fmt: skip
def test_prompts_tell_calls_and_reasoning_as_training_does(template, messages):
    """Arguments in JSON were written as a text in JSON, and the reasoning in another field was lost."""
    tokenizer = byte_tokenizer(template)
    (example,) = build_examples([{"messages": messages}], tokenizer)
    prompt = prompt_of(template, *messages)
    assert tokenizer.decode(example.input_ids) == f"{prompt}{messages[-1]['content']}{END}"
    assert "\\" not in prompt.replace('\\"29\\"\\n', "")
    assert ("so" in prompt) == (template is BLANKS)


@pytest.mark.parametrize("text", ["5 \u2126", "e\u0301", "A\u030a"])
def test_a_tokenizer_may_compose_characters(text):
    """As Qwen's do: it is the same text."""
    from tokenizers import normalizers

    tokenizer = byte_tokenizer(CHATML)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    (example,) = build_examples([{"messages": [user("Q"), assistant(text)]}], tokenizer)
    assert example.labels[-1] == tokenizer.convert_tokens_to_ids(END)


@pytest.mark.parametrize("blocks", [
    [{"type": "thinking", "thinking": "so", "signature": "x"}, {"type": "text", "text": "A"}],
    [{"type": "thinking", "thinking": [{"type": "text", "text": "so"}]}, {"type": "text", "text": "A"}],
])  # fmt: skip
def test_blocks_of_thinking_are_the_reasoning(blocks):
    message = {"role": "assistant", "content": blocks}
    assert written(BLANKS, user("Q"), message)[0][1] == f"<think>\nso\n</think>\nA{END}"
    for wrong in ([*reversed(blocks)], [{"type": "thinking", "thinking": 5}, blocks[1]]):
        with pytest.raises(UserError, match="only text can be trained on"):
            written(BLANKS, user("Q"), message | {"content": wrong})
    with pytest.raises(UserError, match="only text can be trained on"):
        written(BLANKS, {"role": "user", "content": blocks}, assistant("A"))
    with pytest.raises(UserError, match="another 'thinking'"):
        written(BLANKS, user("Q"), message | {"thinking": "other"})


def test_trls_training_template_is_used_for_the_family_it_knows(caplog):
    """R1-Distill's own template strips the thought; the prompt stays its own."""
    from support.template_table import INLINE, templates

    template = templates()["trl/deepseek_r1_distill"]
    ((prompt, said),) = written(template, user("Q"), assistant(INLINE))
    assert said == "I look twice\n</think>\n\nIt is 42<｜end▁of▁sentence｜>"
    assert prompt == prompt_of(template, user("Q"), assistant(INLINE))
    (line,) = [record.getMessage() for record in caplog.records if record.name == "grpo"]
    assert "TRL's training template of this family" in line
    valued = byte_tokenizer(
        "{#- base.template_kwargs -#}{%- set thinking = true %}\n" + template
    )  # base.template_kwargs
    assert len(build_examples([{"messages": [user("Q"), assistant(INLINE)]}], valued)) == 1


CHANNEL = CHATML.replace(  # the field is read beside calls only, as by Gemma 4 and Command R7B
    "\n{{ m['content'] }}",
    "\n{% if m['tool_calls'] %}<|open|>{{ m['reasoning_content'] }}<|close|>{{ m['tool_calls'] | tojson }}{% else %}"
    "{{ '<|reply|>' if m['role'] == 'assistant' }}{{ m['content'] }}{% endif %}",
)


@pytest.mark.parametrize(("said", "trained"), [
    ({"content": "<think>\nso\n</think>\n\nA"}, "<|open|>so<|close|><|reply|>A"),
    ({"content": "A", "thinking": "so"}, "<|open|>so<|close|><|reply|>A"),
    ({"content": "<think>\n\n</think>\n\nA"}, "<|reply|>A"), ({"content": "A"}, "<|reply|>A"),
    ({"content": "", "reasoning": "so", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 17}}}]},
     '<|open|>so<|close|>[{"function": {"name": "add", "arguments": {"a": 17}}}]'),
])  # fmt: skip
def test_a_thought_has_the_form_that_the_template_gives_it_beside_calls(said, trained):
    assert [text for _, text in written(CHANNEL, user("Q"), {"role": "assistant", **said})] == [trained + END]


def test_a_history_that_is_written_with_other_blanks_once_the_answer_is_there():
    """Hermes' tool_use template ends a reply that is the last message without a line end."""
    hermes = CALLED.replace("<|im_end|>", "{{ '' if loop.last else '\n' }}<|im_end|>")
    ((_, called), (prompt, said)) = written(hermes, user("Q"), CALLS, REPLY, assistant("A"))
    assert (called.count("17"), said) == (1, f"A{END}")
    assert prompt.endswith(f'"29"\n{END}\n<|im_start|>assistant\n')


def test_a_template_that_needs_tools_says_so():
    with pytest.raises(UserError, match=r"NoneType.*it reads 'tools', which the row does not have"):
        written("{% for tool in tools %}{{ tool }}{% endfor %}" + CHATML, user("Q"), assistant("A"))


def test_a_thought_stands_before_the_calls():
    late = CHATML.replace("{{ m['content'] }}", "{{ m['tool_calls'] | tojson if m['tool_calls'] }}{{ m['content'] }}")
    call = {"function": {"name": "add", "arguments": {"a": 17}}}
    ((_, said),) = written(late, user("Q"), assistant("<think>so</think>") | {"tool_calls": [call]})
    assert said == f'<think>so</think>[{{"function": {{"name": "add", "arguments": {{"a": 17}}}}}}]{END}'


def test_a_thought_that_never_ends_is_refused():
    with pytest.raises(UserError, match="row 0, message 1: its thought never ends"):
        written(CHATML, user("Q"), assistant("<think>so A"))
    assert written(CHATML, user("Q"), assistant("It is <think>"))[0][1] == f"It is <think>{END}"
