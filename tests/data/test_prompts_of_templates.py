"""Of every template that models ship our prompts are transformers' own, id for id, or one line says why not."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.real_data import data_folder
from grpo.config.data import DataConfig
from grpo.data.prompts import build_prompts
from grpo.errors import UserError
from stages.tiny_world import build_tokenizer

ASKED = {"role": "user", "content": "What is 2 + 3?\n"}
TALKS = {
    "one turn": [ASKED],
    "several turns": [
        ASKED,
        {"role": "assistant", "content": "<think>\nso\n</think>\n\n5"},
        {"role": "user", "content": "And 4?"},
    ],
    "a system message": [{"role": "system", "content": "Be brief."}, ASKED],
}
WITHOUT_SYSTEM = ("google-gemma-2-2b-it", "gemma", "gemma_training")
REFUSING = (
    *("idefics3", "llava_next", "smolvlm"),  # they write no text that is not in a list of parts
    *("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "fireworks-ai-llama-3-firefunction-v2"),  # without tools
)


def shipped() -> dict[str, Path]:
    trl = find_spec("trl")
    assert trl is not None
    assert trl.origin is not None
    folders = [Path(trl.origin).parent / "chat_templates"]
    if data := data_folder():
        folders.append(data / "templates")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.jinja"))}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    made = build_tokenizer([talk["content"] for talks in TALKS.values() for talk in talks] * 3, 400)
    made.add_special_tokens({"bos_token": "<s>"})
    return made


@pytest.mark.parametrize("name", shipped())
def test_prompts_are_those_of_transformers(tokenizer, name):
    tokenizer.chat_template = shipped()[name].read_text(encoding="utf-8")
    refusals: dict[str, str] = {}
    for kind, talk in TALKS.items():
        try:
            (prompt,) = build_prompts([{"prompt": talk}], DataConfig(path="d"), tokenizer)
        except UserError as refused:
            refusals[kind] = str(refused)
            continue
        theirs = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=True)["input_ids"]
        assert list(prompt.token_ids) == theirs, kind
        assert prompt.text is not None
        assert prompt.text.endswith(prompt.prefill)
        if prompt.text.rstrip().endswith("<think>"):  # it opens the answer's thinking: the reward must know
            assert "<think>" in prompt.prefill, kind
    expected = ["a system message"] if name in WITHOUT_SYSTEM else []
    assert list(refusals) == (list(TALKS) if name.removesuffix("_training") in REFUSING else expected)
    assert not any("\n" in line for line in refusals.values())
