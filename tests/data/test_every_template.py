"""Every template at hand trains what the assistant says, whole and once, after generation's own prompt; or refuses."""

import re

import pytest

from benchmarks.real_data import data_folder
from grpo.data.encoding import IGNORE
from grpo.data.turns import Template
from grpo.errors import UserError
from support.recipes import REPOSITORY
from support.template_table import CASES, examples_of, stretches, table, templates

TEMPLATES = templates()


def refusal(template, case):
    try:
        examples_of(template, case)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_labels_are_what_was_said(name, case):
    refused = refusal(TEMPLATES[name], case)
    if refused is not None:  # in one line, which names the row
        assert re.match(r"data, row 0[^\n]+$", refused)
        return
    tokenizer, examples, _ = examples_of(TEMPLATES[name], case)
    row, wanted = CASES[case]
    trained = stretches(tokenizer, examples)
    assert len(trained) == len(wanted)
    template = Template(tokenizer, {"tools": row.get("tools")})
    calls = [call for message in row["messages"] for call in message.get("tool_calls", [])]
    ends = {template.end(turn, "").text for turn in ([], calls)}
    for said, text in zip(wanted, trained, strict=True):
        assert [text.count(part) for part in said] == [1] * len(said)
        assert any(text.endswith(end) and text.count(end) == 1 for end in ends)
    # Before the first trained token stands generation's prompt.
    start = next(place for place, label in enumerate(examples[0].labels) if label != IGNORE)
    turn = next(number for number, message in enumerate(row["messages"]) if message["role"] == "assistant")
    asked = {"add_generation_prompt": True, "tokenize": False, "tools": row.get("tools")}
    prompt = tokenizer.apply_chat_template(row["messages"][:turn], **asked)
    assert examples[0].input_ids[:start] == tokenizer(prompt, add_special_tokens=False)["input_ids"]


def test_the_table_of_the_docs_is_what_comes_of_it():
    page = (REPOSITORY / "docs" / "templates.md").read_text().splitlines()
    missing = [line for line in table() if line not in page]
    assert not missing
    if data_folder() is not None:
        assert len([line for line in page if line.startswith("| ")]) >= len(table()) - 1
