"""What is said about what others wrote: nothing in it acts on the terminal, no secret of the config is repeated."""

import json
from pathlib import Path

import pytest

from grpo.config.data import DataConfig
from grpo.data.rows import load_rows
from grpo.errors import UserError
from stages.cli import main
from support.command import python

CLEAR = "\x1b[2J\x1b]0;owned\x07"


def broken_rows(**kwargs):
    raise RuntimeError("no answer")


def test_a_data_functions_error_does_not_say_its_arguments():
    data = DataConfig(
        fn="attack.test_said.broken_rows", kwargs={"token": "sk-secret", "endpoint": {"password": "hunter2"}}
    )
    with pytest.raises(UserError) as failure:
        load_rows(data)
    assert str(failure.value) == "data function 'attack.test_said.broken_rows': RuntimeError: no answer"


@pytest.mark.parametrize("name", ["text", "json", "csv", "imagefolder"])
def test_the_name_of_a_reader_does_not_read_the_folder_we_are_in(tmp_path, monkeypatch, name):
    """It took every file for a row of text, keys and all."""
    (tmp_path / ".env.txt").write_text("KEY=sk-secret")
    (tmp_path / "keys.txt").write_text("KEY=sk-secret")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"data '{name}': no such file or folder; of all files in one"):
        load_rows(DataConfig(path=name))


@pytest.mark.parametrize("where", ["key", "value", "override", "option", "command"])
def test_a_refusal_holds_no_escape(tmp_path, capsys, where):
    file = tmp_path / "c.yaml"
    tree = {"base": "m", "reasoning_rl": {"steps": 1, "data": "x.jsonl", "rewards": "accuracy"}}
    tree |= {CLEAR: 1} if where == "key" else {"seed": CLEAR} if where == "value" else {}
    file.write_text(json.dumps(tree))
    words = {"override": [f"{CLEAR}=1"], "option": [f"--{CLEAR}"]}.get(where, [])
    assert main([CLEAR] if where == "command" else ["check", str(file), *words]) == 2
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert "\x07" not in said.err
    assert "error: " in said.err


def test_a_warning_holds_no_escape(tmp_path: Path):
    """As a command logs it: in a process of its own."""
    code = f"""
import logging
from grpo.system.runtime import quiet
quiet("info")
logging.getLogger("grpo").warning("reward said %s", {CLEAR!r})
logging.getLogger("grpo").info("two\\nlines")
"""
    said = python("-c", code).stderr
    assert "reward said ␛[2J" in said
    assert "two\nlines" in said
    assert "\x1b" not in said
