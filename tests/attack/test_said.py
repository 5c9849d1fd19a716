"""What is said about what others wrote: nothing in it acts on the terminal, no secret of the config is repeated."""

import ast
import io
import json
from pathlib import Path
from typing import Any

import pytest

from grpo.config.data import DataConfig
from grpo.data.rows import load_rows, write_jsonl
from grpo.errors import UserError, public
from grpo.system.console import SafeConsole, say
from grpo.system.progress import Bar
from stages.cli import main
from stages.commands import eval as eval_command
from stages.recipe.config import RecipeConfig
from stages.recipe.summary import print_table
from support.command import python
from support.models import EOS, IM_END, save_model
from support.processes import ROOT
from support.recipes import SMALL, changed

DSN = "postgres://me:hunter2@host/db"  # which a reward has from where it likes
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


@pytest.mark.parametrize(
    "address", ["https://me:p@ss'hunter2@host/v1", 'redis://:"hunter2"@host', "ftp://hunter2@host"]
)
def test_an_address_is_shown_without_its_user_and_password(address):
    assert "hunter2" not in public(f"no route to '{address}', or \"{address}\"")
    assert "host" in public(address)


def test_a_password_in_a_key_is_refused_too(tmp_path, capsys):
    tree = {"base": "m", "reasoning_rl": {"steps": 1, "data": "x.jsonl", "rewards": [
        {"fn": "my.f", "kwargs": {"https://me:hunter2@host/v1": 1}}]}}  # fmt: skip
    (tmp_path / "c.yaml").write_text(json.dumps(tree))
    assert main(["check", str(tmp_path / "c.yaml")]) == 2
    said = capsys.readouterr()
    assert "hunter2" not in said.out + said.err
    assert "'reasoning_rl.rewards.0.kwargs.https://***@host/v1': an address must not hold" in said.err


@pytest.mark.parametrize(
    "key", ["reasoning_rl.rewards.0.kwargs.dsn", "engine.server.urls.0", "base.model", "base.nosuch"]
)
def test_a_password_in_an_address_is_refused_and_not_repeated(tmp_path, capsys, key):
    tree = {
        "base": {"model": "m"},
        "engine": {"server": {"urls": ["http://localhost:1"]}},
        "reasoning_rl": {"steps": 1, "data": "x.jsonl", "rewards": [{"fn": "my.f", "kwargs": {"dsn": ""}}]},
    }
    (tmp_path / "c.yaml").write_text(json.dumps(tree))
    for command in ("run", "check"):
        override = f"{key}=https://me:hunter2@host/v1"
        assert main([command, str(tmp_path / "c.yaml"), override]) == 2
        said = capsys.readouterr()
        assert "hunter2" not in said.out + said.err
        assert f"'{key}': an address must not hold a user or a password" in said.err
    assert main(["check", str(tmp_path / "c.yaml"), "nosuch.0.x.https://me:hunter2@host"]) == 2
    assert "hunter2" not in capsys.readouterr().err


def test_a_server_that_others_can_reach_is_said(monkeypatch, caplog, tmp_path):
    from grpo.config.engine import EngineConfig, RuntimeConfig
    from grpo.engines.vllm.serve import start_servers, stop
    from grpo.engines.vllm.start import ServedModel
    from support.servers import free_port

    monkeypatch.setattr("grpo.engines.vllm.serve.COMMAND", ["true"])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    served = ServedModel("m", None, (), 64, "cpu", "float32")
    for host, warned in (("0.0.0.0", True), ("localhost", False), ("127.0.0.1", False)):
        children: list[Any] = []
        start_servers(EngineConfig(), RuntimeConfig(), served, [f"http://{host}:{free_port()}"], children)
        stop(children)
        assert ("can be reached by other machines" in caplog.text) == warned
        caplog.clear()


def connecting(completions: list[Any], log_error: Any, **_: Any) -> list[float | None]:
    log_error(0, f"refused: {DSN}")
    return [None, *map(float, range(1, len(completions)))]


def disconnected(completions: list[Any], **_: Any) -> list[float]:
    raise ConnectionError(f"no route to {DSN}")


@pytest.mark.parametrize("fails", [False, True])
def test_no_password_of_an_address_is_in_a_run_folder_or_said(tmp_path, capfd, caplog, monkeypatch, fails):
    """What rewards raise and log is written down with the completions, and said when a run stops."""
    monkeypatch.setattr("attack.test_said.DSN", "postgres://me:p@ss'hunter2@host/db" if fails else DSN)
    monkeypatch.setattr("grpo.scoring.groups.MAX_FAILED", 0.0 if fails else 0.9)
    write_jsonl(tmp_path / "q.jsonl", [{"prompt": f"{n}+1?"} for n in range(4)])
    name = "disconnected" if fails else "connecting"
    stage = {
        "steps": 1, "group_size": 4, "prompts_per_step": 2, "data": {"path": str(tmp_path / "q.jsonl")},
        "sampling": {"max_tokens": 4}, "rewards": [{"fn": f"attack.test_said.{name}"}],
    }  # fmt: skip
    tree = {
        "base": {"model": str(save_model(tmp_path / "model", end=[EOS, IM_END]))},
        "reasoning_rl": stage, "runtime": {"device": "cpu", "threads": 1}, "engine": "local",
        "cold_start": None, "rejection_sampling": None, "helpfulness_rl": None,
    }  # fmt: skip
    (tmp_path / "c.yaml").write_text(json.dumps(tree))
    out = tmp_path / "run"
    code = main(["run", str(tmp_path / "c.yaml"), "--out", str(out)])
    said = capfd.readouterr()
    assert code == (2 if fails else 0), said
    written = {str(file): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert any(b"://***@host" in content for content in written.values()) != fails
    assert "://***@host" in said.err + caplog.text
    assert "hunter2" not in said.out + said.err + caplog.text
    assert not [file for file, content in written.items() if b"hunter2" in content]


MARKUP = f"[/no] [blink]{CLEAR}\x9b2J"


def test_tables_hold_no_escape_and_no_markup(capsys):
    """Before: names of models, data and configs were written as they are, and "[/x]" was a traceback."""
    metrics = {"model": MARKUP, "data": MARKUP, "pass@1": 1.0, "n_problems": 1, "samples_per_problem": 1}
    rates = ("format_rate", "language_consistency", "truncation_rate", "no_answer_rate", "mean_tokens")
    eval_command._print(metrics | dict.fromkeys(rates) | {"format_required": False, "temperature": MARKUP})
    print_table(
        {"config": MARKUP, "seed": 0, "seconds": 1.0, "stages": []},
        RecipeConfig.model_validate(changed(SMALL, "seed=0")),
    )
    Bar(MARKUP, 1, 0).advance(1, CLEAR)
    Bar(MARKUP, 1, 0).finish()
    say(MARKUP)
    said = capsys.readouterr().out
    assert not set("\x1b\x07\x9b") & set(said)
    assert said.count("[/no] [blink]␛[2J") >= 5


def test_what_is_shown_on_a_terminal_is_made_visible_and_keeps_our_colours():
    shown = io.StringIO()
    SafeConsole(file=shown, force_terminal=True, highlight=False).print(f"a{CLEAR}", style="red")
    assert shown.getvalue().startswith("\x1b[31ma␛[2J")
    assert "\x1b[2J" not in shown.getvalue()


def test_scores_are_json_that_does_nothing_to_a_terminal(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "", "completion": "x"}))
    assert main(["score", str(tmp_path / "rows.jsonl"), "--reward", "attack.test_said.complains"]) == 0
    said = capsys.readouterr().out
    assert said.isprintable() or set(said) - set("\n") == {c for c in said if c.isprintable()}
    assert "\x9b" in json.loads(said)["errors"]["attack.test_said.complains"]


def complains(completions, **_):
    raise RuntimeError("a\x9b2J\u202eb\x7f")


def test_everything_printed_goes_through_one_place():
    """Every call of `print` and every console of ours: a new one that shows what others wrote is found here."""
    allowed = {"HELP", "text"}  # ours; a config that was made, which must stay exact
    for file in [*(ROOT / "grpo").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]:
        if file.name == "console.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "Console", file
                if node.func.id == "print":
                    source = ast.unparse(node.args[0])
                    numbers = file.name == "compare.py"  # a metric's name from a list, and numbers
                    plain = ("public(", "json.dumps(", "f'vLLM is ready at ")  # an address that was checked
                    assert source.startswith(plain) or source in allowed or numbers, (file, source)
