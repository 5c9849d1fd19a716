"""Between a row and its labels nothing that the assistant said is lost, doubled, moved or changed, or it is refused."""

import pytest

from grpo.data.conversations import IGNORE, build_examples
from grpo.errors import UserError
from support.chat import assistant, user
from support.templates import byte_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPENED = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
THOUGHT, ANSWER, END = "I see", "It is 4", "<|im_end|>"
INLINE = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 17, "b": "two"}}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]


def assistant_turn(written):
    """ChatML in which an assistant's turn is written so."""
    return CHATML.replace(
        "{{ m['content'] }}",
        f"{{% if m['role'] == 'assistant' %}}{written}{{% else %}}{{{{ m['content'] }}}}{{% endif %}}",
    )


def reading(field):
    return assistant_turn(f"<think>{{{{ m['{field}'] or '' }}}}</think>{{{{ m['content'] }}}}")


def trained(template, *messages, **row):
    tokenizer = byte_tokenizer(template)
    examples = build_examples([{"messages": [user("Q one"), *messages], **row}], tokenizer)
    return [tokenizer.decode([label for label in example.labels if label != IGNORE]) for example in examples]


@pytest.mark.parametrize("message", [
    assistant(INLINE), assistant(f"{THOUGHT}</think>{ANSWER}"),
    *(assistant(ANSWER) | {field: THOUGHT} for field in ("reasoning_content", "thinking", "reasoning")),
    assistant(INLINE) | {"reasoning_content": THOUGHT},
])  # fmt: skip
@pytest.mark.parametrize("field", ["reasoning_content", "thinking", "reasoning"])
def test_the_reasoning_goes_through_the_field_that_the_template_reads(field, message):
    assert trained(reading(field), message) == [f"<think>{THOUGHT}</think>{ANSWER}{END}"]


def test_a_template_without_a_field_gets_it_in_the_content():
    assert trained(CHATML, assistant(ANSWER) | {"reasoning_content": THOUGHT}) == [INLINE + END]
    assert trained(CHATML, assistant(f"{THOUGHT}</think>{ANSWER}")) == [f"{THOUGHT}</think>{ANSWER}{END}"]


@pytest.mark.parametrize("template", [
    OPENED,
    OPENED.replace("{{ m['content'] }}", "{{ m['content'].split('</think>')[-1] }}"),
])  # fmt: skip
def test_a_thought_that_the_prompt_opens_is_gone_on_with(template):
    assert trained(template, assistant(INLINE)) == [f"{THOUGHT}\n</think>\n\n{ANSWER}{END}"]
    assert trained(template, assistant(ANSWER) | {"thinking": THOUGHT}) == [f"{THOUGHT}\n</think>\n\n{ANSWER}{END}"]
    assert trained(template, assistant(ANSWER)) == [f"\n</think>\n\n{ANSWER}{END}"]  # an empty one is closed


def test_a_thought_that_the_prompt_closes_takes_no_reasoning():
    closing = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n\n</think>\n\n{% endif")
    assert trained(closing, assistant(ANSWER)) == [ANSWER + END]
    with pytest.raises(UserError, match=r"message 1: the generation prompt closes the thought .*base.template_kwargs"):
        trained(closing, assistant(INLINE))


def test_a_template_that_empties_the_thought_has_it_filled():
    emptying = assistant_turn("<think></think>{{ m['content'] }}")  # Kimi-K2-Thinking, of a last message
    assert trained(emptying, assistant(INLINE)) == [f"<think>{THOUGHT}</think>\n\n{ANSWER}{END}"]


@pytest.mark.parametrize(("written", "lost"), [
    ("{{ m['content'] }}{{ m['content'] }}", "repeats the answer"),
    ("{{ m['content'][:3] }}", "leaves out the answer"),
    ("{{ m['content'].replace('4', '5') }}", "changes the answer"),
    ("{{ m['content'].upper() }}", "leaves out the answer"),
    ("", "leaves out the answer"),
    ("{{ m['content'] }}<think>{{ m['thinking'] }}</think>", "writes the answer before the reasoning"),
    ("{{ m['thinking'] }}<|im_end|>{{ m['content'] }}", "writes <.im_end.>, which stops generation, inside it"),
])  # fmt: skip
def test_what_a_template_does_to_an_answer_is_refused(written, lost):
    thought = {"thinking": THOUGHT} if "thinking" in written else {}
    with pytest.raises(
        UserError, match=f"row 0, message 1: the chat template cannot train .*{lost}.*base.chat_template"
    ):
        trained(assistant_turn(written), assistant(ANSWER) | thought)


@pytest.mark.parametrize("answer", [" It is 4 \n", "a  b\n\n    c", "4", "12 + 30 = 42", "<b>4</b>", "สี่ 🙂", "{{ 1 }}"])
def test_white_space_at_the_ends_is_the_templates_and_nothing_else(answer):
    trimming = assistant_turn("{{ m['content'] | trim }}")
    assert trained(CHATML, assistant(answer)) == [answer + END]
    assert trained(trimming, assistant(answer)) == [answer.strip() + END]


@pytest.mark.parametrize(("messages", "problem"), [
    ([assistant("four<|im_end|>five")], "message 1: it contains the end token <|im_end|>"),
    ([assistant("")], "message 1: the assistant says nothing"),
    ([assistant(ANSWER) | {"reasoning": "one", "thinking": "two"}], "two reasonings, 'two' and 'one'"),
    ([assistant(INLINE) | {"reasoning": "other"}], "two reasonings"),
    ([assistant(ANSWER) | {"weight": 0.5}], "'weight' must be 0 or 1, got 0.5"),
    ([assistant(ANSWER) | {"weight": 0}], "row 0: no assistant message is to be trained"),
])  # fmt: skip
def test_what_cannot_be_trained_is_said(messages, problem):
    with pytest.raises(UserError) as error:
        trained(CHATML, *messages)
    assert problem in str(error.value)


@pytest.mark.parametrize("untrained", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"train": 0}, {"loss": False}])
def test_a_turn_of_weight_0_is_read_and_not_trained(untrained):
    messages = [
        assistant("The first") | untrained,
        user("Q two"),
        assistant("The second") | {"weight": 1, "train": True},
    ]
    assert trained(CHATML, *messages) == [f"The second{END}"]
    tokenizer = byte_tokenizer(CHATML)
    (example,) = build_examples([{"messages": [user("Q one"), *messages]}], tokenizer)
    assert "The first" in tokenizer.decode(example.input_ids)


def test_turns_that_are_not_the_last_and_turns_that_follow_each_other():
    assert trained(CHATML, assistant("one"), assistant("two"), user("more?")) == [f"one{END}two{END}"]


CALLS = (
    "{{ m['content'] or '' }}{% for call in m['tool_calls'] or [] %}<tool_call>"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments ARGS }}}</tool_call>{% endfor %}'
)
TOLD = '<tool_call>{"name": "add", "arguments": {"a": 17, "b": "two"}}</tool_call>'


@pytest.mark.parametrize("arguments", [CALL["function"]["arguments"], '{"a": 17, "b": "two"}'])
@pytest.mark.parametrize("filter_", ["| tojson", "", "| string"])
@pytest.mark.parametrize("content", ["", None, "Let me see. "])
def test_calls_are_written_as_json_whatever_the_row_and_the_template_hold(arguments, filter_, content):
    template = assistant_turn(CALLS.replace("ARGS", filter_)).replace("{% for m", "{{ tools or '' }}{% for m", 1)
    call = {**CALL, "function": {"name": "add", "arguments": arguments}}
    message = {"role": "assistant", "content": content, "tool_calls": [call]}
    assert trained(template, message, tools=TOOLS) == [f"{content or ''}{TOLD}{END}"]


@pytest.mark.parametrize(("written", "problem"), [
    (CALLS.replace("m['tool_calls'] or []", "(m['tool_calls'] or [])[:1]").replace("ARGS", ""), "leaves out a part"),
    ("{{ m['content'] or '' }}", "leaves out a part of the tool calls"),
    (CALLS.replace("ARGS", "| tojson") * 2, "repeats a tool call"),
])  # fmt: skip
def test_lost_calls_are_refused(written, problem):
    message = {"role": "assistant", "content": "", "tool_calls": [CALL, {**CALL, "id": "c2"}]}
    with pytest.raises(UserError, match=problem):
        trained(assistant_turn(written), message)


def test_tools_reach_the_template_or_are_missed():
    template = CHATML.replace("{% for m", "{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %}{% for m", 1)
    tokenizer = byte_tokenizer(template)
    for tools in (TOOLS, '[{"type": "function", "function": {"name": "add"}}]'):
        (example,) = build_examples([{"messages": [user("Q"), assistant("A")], "tools": tools}], tokenizer)
        assert tokenizer.decode(example.input_ids).startswith("[add]<|im_start|>user")
    with pytest.raises(UserError, match="does not write the tool 'add' of column 'tools'"):
        trained(CHATML, assistant(ANSWER), tools=TOOLS)


def test_the_rows_own_template_variables():
    template = CHATML.replace("{% for m", "{{ mood }}{% for m", 1)
    row = {"messages": [user("Q"), assistant("A")], "chat_template_kwargs": {"mood": "calm"}}
    tokenizer = byte_tokenizer(template)
    assert tokenizer.decode(build_examples([row], tokenizer)[0].input_ids).startswith("calm<|im_start|>")


def test_a_system_message_that_the_template_leaves_out_is_missed():
    template = CHATML.replace(
        "<|im_start|>{{ m['role'] }}", "{% if m['role'] != 'system' %}<|im_start|>{{ m['role'] }}"
    ).replace("<|im_end|>\n{% endfor", "<|im_end|>\n{% endif %}{% endfor")
    with pytest.raises(UserError, match="does not write what the system says"):
        build_examples(
            [{"messages": [{"role": "system", "content": "Be kind"}, user("Q"), assistant("A")]}],
            byte_tokenizer(template),
        )
