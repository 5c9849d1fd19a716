"""The examples of docs/rewards.md, taken from the page and run."""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo.config.yaml import load_yaml
from grpo.errors import UserError
from grpo.scoring.table import Reward, RewardTable, apply_rewards
from grpo.system.imports import import_path
from rewards.loader import REGISTRY, find_reward, load_reward, load_rewards
from stages.cli import main
from support.documents import blocks, text
from support.servers import Reply, listening

PAGE = text("rewards.md")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the modules of the page; blocks of one file follow each other in it."""
    import sys

    files: dict[str, str] = {}
    for block in blocks("rewards.md", "python"):
        name = re.match(r"# (\w+\.py)\n", block)
        assert name is not None, block
        files[name[1]] = files.get(name[1], "") + block
    for file, code in files.items():
        (tmp_path / file).write_text(code)
    (tmp_path / "words.txt").write_text("the answer is six\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for file in files:
        sys.modules.pop(file.removesuffix(".py"), None)


def table(reward: Reward, texts: list[str], **columns: list[Any]) -> RewardTable:
    messages = [[{"role": "assistant", "content": text}] for text in texts]
    prompts = [[{"role": "user", "content": "?"}]] * len(texts)
    return apply_rewards([reward], prompts, messages, [[]] * len(texts), columns, timeout=30)


def test_the_config_of_the_page_loads(here):
    (config,) = blocks("rewards.md", "yaml")
    rewards = load_rewards(load_yaml(config, "yaml")["rewards"])
    assert [reward.name for reward in rewards] == ["accuracy", "in_the_asked_unit", "PlainWords", "polite"]
    assert [reward.weight for reward in rewards] == [1.0, 0.2, 0.3, 0.5]


def test_the_function(here):
    reward = load_reward("my_rewards.in_the_asked_unit")
    texts = ["<think>m</think> It is 5 km.", "<think>5 km</think> It is 5 m", "5"]
    assert table(reward, texts, unit=["km", "km", None]).values == {"in_the_asked_unit": [1.0, 0.0, None]}
    plain = apply_rewards([reward], ["?"], ["5 km"], [[]], {"unit": ["km"]})  # and for plain-text prompts
    assert plain.values == {"in_the_asked_unit": [1.0]}
    with pytest.raises(UserError, match="needs 'unit', which the data does not have"):
        table(reward, texts)


def test_the_class(here):
    reward = load_reward({"fn": "my_rewards.PlainWords", "kwargs": {"path": "words.txt", "most": 0.5}})
    found = table(reward, ["The answer is six.", "six whole bananas fell", "is six or seven", " "])
    assert found.values["PlainWords"] == [1.0, 0.5, 1.0, None]
    assert found.errors == {(3, "PlainWords"): "no words"}
    assert found.metrics["PlainWords"]["unknown_words"] == [0.0, 0.75, 0.5]
    (here / "words.txt").unlink()  # it was read once
    assert table(reward, ["six"]).values["PlainWords"] == [1.0]
    with pytest.raises(UserError, match="most is a share below 1, not 2"):
        load_reward({"fn": "my_rewards.PlainWords", "kwargs": {"path": "words.txt", "most": 2}})
    with pytest.raises(UserError, match=r"no option 'mots' .did you mean 'most'"):
        find_reward({"fn": "my_rewards.PlainWords", "kwargs": {"path": "words.txt", "mots": 2}})


@pytest.fixture
def service():
    """A judge on this machine: 1 for what says please, 500 for what is broken, no JSON for what is odd."""

    def judge(path, body, number):
        answer = b"<html>" if "odd" in body["text"] else {"score": float("please" in body["text"])}
        return Reply(500 if "broken" in body["text"] else 200, answer)

    with listening(judge, "/judge") as server:
        yield server.url


def test_the_async_function(here, service):
    reward = load_reward({"fn": "my_judge.polite", "kwargs": {"url": service, "at_once": 2}})
    found = table(reward, ["yes please", "no", "broken", "odd", "please"])
    assert found.values["polite"] == [1.0, 0.0, None, None, 1.0]
    assert {row for row, _ in found.errors} == {2, 3}
    assert "HTTP Error 500" in found.errors[2, "polite"]
    assert "JSONDecodeError" in found.errors[3, "polite"]
    assert not found.failed  # the function said so itself


def test_the_command_of_the_page(here, capsys):
    (command,) = blocks("rewards.md", "bash")
    row = {"prompt": "How far?", "completion": r"\boxed{5} km", "answer": "5", "unit": "km"}
    (here / "samples.jsonl").write_text(json.dumps(row) + "\n")
    assert main(command.split()[1:]) == 0
    (said,) = blocks("rewards.md", "json")
    assert json.loads(capsys.readouterr().out) == json.loads(said)


def test_every_reward_that_ships_is_in_the_table_with_its_options():
    lines = PAGE[PAGE.index("## Rewards that ship") :].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    named_paths = {row[0].strip("`"): row[3].strip("`") for row in rows}  # the public ones, which are shorter
    assert {name: import_path(path) for name, path in named_paths.items()} == {
        name: import_path(path) for name, path in REGISTRY.items()
    }
    for name, what, options, _ in rows:
        linked = re.search(r"\]\((\w+\.md)\)", what)  # a page of its own
        options += text(linked[1]) if linked else ""
        target = import_path(REGISTRY[name.strip("`")])
        parameters = list(inspect.signature(target).parameters.values())
        named = re.findall(r"`(\w+)`", options)
        ours = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY or inspect.isclass(target)} - {"log_error"}
        assert ours <= set(named), name
        assert linked or set(named) <= {p.name for p in parameters}, name
