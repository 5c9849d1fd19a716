"""What was sampled goes to a file, one line a completion; it is made into text once."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grpo.data.rows import read_jsonl
from grpo.errors import UserError
from grpo.rollout import completions
from support.groups import group_of, prompt_of


class Counted(dict[str, str]):
    """A message that counts how often it is printed, which is not how JSON is made."""

    printed = 0

    def __repr__(self) -> str:
        Counted.printed += 1
        return super().__repr__()


@pytest.fixture
def groups():
    Counted.printed = 0
    prompt = replace(prompt_of([1, 2]), messages=[Counted(role="user", content="2+3")])
    return [group_of(prompt, [1.0, None])]


def test_rows_are_made_into_text_once(groups, tmp_path):
    completions.save_completions(tmp_path, 3, groups)
    rows = read_jsonl(tmp_path / "completions" / "step-000004.jsonl")
    assert [(row["step"], row["reward"], row["prompt"]) for row in rows] == [
        (4, reward, [{"role": "user", "content": "2+3"}]) for reward in (1.0, None)]  # fmt: skip
    assert Counted.printed == 0


def test_a_full_disk_is_told_the_size_of_them(groups, tmp_path, monkeypatch):
    def refuse(file: Path, rows: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(completions, "write_jsonl", refuse)
    with pytest.raises(UserError, match=r"No space left on device: 5\d\d bytes are needed") as error:
        completions.save_completions(tmp_path, 0, groups)
    assert str(tmp_path / "completions" / "step-000001.jsonl") in str(error.value)
