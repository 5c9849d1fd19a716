"""`grpo view` in the terminal: what is shown of a run that may be unfinished, hostile or not a run at all."""

import io
import os
import pty
import select
import subprocess
import sys
import time
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from grpo.errors import UserError, visible
from grpo.system.files import whole_rows
from stages.cli import main
from stages.view.browse import Command, State, press, seek
from stages.view.filters import Filters, read_condition
from stages.view.run_folder import StageFolder, open_run
from stages.view.screen import browse, read_keys, split_keys
from stages.view.terminal import step_view
from stages.view.text import shorten
from support.command import python, refused
from support.processes import ROOT
from support.view_run import RL, SFT, complete, lines, make_run, row, sample


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


@pytest.fixture
def stage(run: Path) -> StageFolder:
    return StageFolder(run / RL)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["view", *arguments]) == 0
    return capsys.readouterr().out


# --- what is shown -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "there", "absent"), [
    ([], [f"{RL}  step 4 of 9  (unfinished)", "reward 1.04",  # the step's row of the metrics
          "prompt 1 of 2 · sums · p0", "user: What is 4+0?", "#1  reward 1.5  advantage +1", "accuracy 1  format 1",
          "#2  reward 0.5  advantage -1", "cut at the limit"], "Traceback"),
    (["--stage", "reasoning_rl", "--step", "2", "--limit", "1"],
     ["step 2 of 9", "What is 2+0?", "--limit 2 shows all"], "What is 2+1?"),
    (["--text", "WRONG of step 3"],  # the last step that matches
     ["step 3 of 9", "1 of 2 completions match"], "right of step 3"),
    (["--text", "no such text"], ["no completion of this step matches"], "right"),
])  # fmt: skip
def test_what_is_shown(run, capsys, arguments, there, absent):
    text = shown(capsys, str(run), *arguments)
    assert [words for words in there if words not in text] == []
    assert absent not in text


def test_completions_of_a_prompt_stand_side_by_side(run, capsys):
    line = next(line for line in shown(capsys, str(run)).splitlines() if "#1" in line)
    assert "#2" in line


def test_a_stage_folder_is_a_run_of_one_stage(run, capsys):
    assert "step 4 of 9" in shown(capsys, str(run / RL))


def test_an_excluded_completion_and_a_reward_that_does_not_apply(run, capsys):
    complete(run / RL, 5, ["?"], rewards=[{"accuracy": None}], totals=[None])
    assert "reward –  advantage +0" in shown(capsys, str(run))


# --- filters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("condition", "places"), [
    ("accuracy<0.5", [2]), ("accuracy <= 1", [1, 2]), ("accuracy=1", [1]), ("accuracy!=1", [2]), ("reward>1", [1]),
    ("advantage>=-1", [1, 2]), ("accuracy=none", []), ("accuracy!=none", [1, 2]),
])  # fmt: skip
def test_reward_filter(stage, condition, places):
    filters = Filters((read_condition(condition, ["accuracy", "format"]),))
    groups = filters.select(stage.groups(4))
    assert [sample.place for sample in groups[0].samples] == places if places else groups == []
    assert all(group.size == 2 for group in groups)


def test_none_is_what_a_reward_could_not_judge(run, stage):
    complete(run / RL, 5, ["a", "b"], rewards=[{"accuracy": None}, {"format": 1.0}], totals=[None, 1.0])
    (group,) = Filters((read_condition("accuracy=none", ["accuracy"]),)).select(stage.groups(5))
    assert [sample.completion for sample in group.samples] == ["a"]


def test_a_text_in_the_prompt_keeps_all_its_completions(stage):
    (group,) = Filters(text="4+1").select(stage.groups(4))
    assert len(group.samples) == 2


# --- going through the steps ---------------------------------------------------------------------------------------


def pressed(stage: StageFolder, state: State, keys: str) -> State:
    for key in keys:
        state = press(state, Command(key), stage, page=10)
    return state


def test_next_and_previous_step_and_prompt(stage):
    state = pressed(stage, State(2), "j")
    assert (state.step, state.prompt) == (2, 1)
    assert pressed(stage, state, "j") == replace(state, notice="the last prompt of the step")
    assert pressed(stage, state, "n") == State(3)
    assert pressed(stage, State(3), "pp") == State(1)
    assert pressed(stage, State(1), "p") == State(1, notice="no earlier step")
    assert pressed(stage, State(4), "n") == State(4, notice="no later step")
    assert pressed(stage, State(4), "k").notice == "the first prompt of the step"


def test_pages(stage):
    assert pressed(stage, State(2), "  ").line == 20
    assert pressed(stage, State(2), " bb").line == 0
    assert pressed(stage, State(2), " n").line == 0


def test_go_to_a_step(stage):
    assert press(State(4), Command("g", " 2"), stage) == State(2)
    assert "the nearest is 4" in press(State(1), Command("g", "30"), stage).notice
    assert "not a number" in press(State(1), Command("g", "x"), stage).notice


def test_with_a_filter_steps_without_a_match_are_passed_over(run, stage):
    complete(run / RL, 6, ["a rare word"])
    state = press(State(2), Command("/", "rare word"), stage)
    assert (state.step, state.notice) == (6, "step 6 is the nearest that matches")
    assert press(state, Command("p"), stage).notice == "no earlier step that matches"
    assert seek(stage, 2, 1, Filters(text="rare word")) == 6
    assert press(state, Command("/", ""), stage).filters == Filters()


def test_conditions_add_up_and_go(stage):
    state = press(press(State(4), Command("f", "accuracy<1"), stage), Command("f", "format=1"), stage)
    assert str(state.filters) == "accuracy<1, format=1"
    assert "no reward named 'acuracy'" in press(state, Command("f", "acuracy<1"), stage).notice
    assert "nothing in the stage matches" in press(state, Command("f", "accuracy=1"), stage).notice
    assert press(state, Command("f"), stage).filters == Filters()


def test_other_keys(stage):
    assert press(State(4), Command("q"), stage).done
    assert "next/previous" in press(State(4), Command("?"), stage).notice
    assert "no command 'x'" in press(State(4), Command("x"), stage).notice


def test_keys_of_one_read():
    assert split_keys("nn\x1b[C\x1b[Aq") == ["n", "n", "n", "k", "q"]
    assert split_keys("") == ["q"]
    assert split_keys("\x04") == ["q"]
    assert split_keys("\x1b") == split_keys("\x1b[24~") == []


def test_keys_leave_the_terminal_as_it_was():
    termios = pytest.importorskip("termios")
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    with os.fdopen(master, "wb", 0) as keys, os.fdopen(slave):
        keys.write(b"p")
        assert next(read_keys(slave)) == "p"
        assert termios.tcgetattr(slave) == before


def test_without_keys_commands_are_lines(stage, monkeypatch):
    """Standard input that is no terminal; its end quits."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("p\n/wrong of step 3\nn\n"))
    console = Console(file=io.StringIO(), width=100)
    browse(console, stage, State(4))
    text = console.file.getvalue()
    assert text.count("step 4 of 9") == 1
    assert text.count("step 3 of 9") == 3
    assert "no later step that matches" in text


def test_on_a_terminal(run):
    """The command on a real pseudo-terminal: previous step, quit; the screen is given back."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "stages.cli", "view", str(run)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "LINES": "30", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    seen = read_until(master, "step 4 of 9")
    for keys, words in ((b"p", "step 3 of 9"), (b"g2\n", "step 2 of 9"), (b"q", "\x1b[?1049l")):
        os.write(master, keys)
        seen += read_until(master, words)
    assert process.wait(60) == 0
    os.close(master)
    assert "Traceback" not in seen


def read_until(descriptor: int, text: str, seconds: float = 120) -> str:
    seen, limit = "", time.monotonic() + seconds
    while text not in seen:
        assert select.select([descriptor], [], [], max(0.0, limit - time.monotonic()))[0], seen
        seen += os.read(descriptor, 4096).decode("utf-8", "replace")
    return seen


# --- runs that are not whole ---------------------------------------------------------------------------------------


def test_a_run_that_is_being_written(run, capsys):
    with (run / RL / "metrics.jsonl").open("a") as out:
        out.write('{"step": 5, "rewa')
    (run / RL / "completions" / "step-000005.jsonl.partial").write_text('{"step": 5, "completi')
    (run / "4-helpfulness-rl").mkdir()
    (run / "4-helpfulness-rl" / "stage.json").write_text("{}")  # has just begun
    assert "step 4 of 9" in shown(capsys, str(run))
    assert len(StageFolder(run / RL).metrics()) == 4


def test_a_step_file_without_metrics_is_enough(run, capsys):
    (run / RL / "metrics.jsonl").unlink()
    (run / RL / "stage.json").unlink()
    assert "step 4 of 4" in shown(capsys, str(run))


def test_lines_that_are_no_objects_are_passed_over(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": 1}\n[1]\nnot json\n\xff\xfe\n{"a": "\xe0\xb8"}\n{"a": 2}\n{"a": \xe0')
    assert [row for _, row in whole_rows(file)] == [{"a": 1}, {"a": 2}]


# --- hostile completions -------------------------------------------------------------------------------------------

HOSTILE = {
    "ansi": "\x1b[31mred\x1b]0;title\x07\x1b[2J\r\x9b5A",
    "markup": "[bold red]loud[/bold red] [/] [link=x]y[/link] :smile:", "reversed": "abc\u202edef\u2066",
    "surrogate": "lone \ud800 half", "thai": "หลักหน่วย 3+3=6 ทด 0", "chinese": "答案是四十二,完毕",
}  # fmt: skip


def test_control_characters_are_shown_not_sent(run, capsys):
    complete(run / RL, 5, list(HOSTILE.values()), prompt="ask \x1b[2J[red]", task="[b]task[/b]\x1b")
    text = shown(capsys, str(run))
    assert not {character for character in text if ord(character) < 0x20} - {"\n"}
    assert not set(text) & {"\x7f", "\x9b", "\u202e", "\u2066", "\ud800"}
    for part in ("␛[31mred", "<U+009B>5A", "[bold red]loud[/bold red]", ":smile:", "abc<U+202E>def", "<U+D800>"):
        assert part in text
    assert "ask ␛[2J[red]" in text
    assert "[b]task[/b]␛" in text
    assert HOSTILE["thai"] in text
    assert HOSTILE["chinese"] in text


def test_every_control_character_is_replaced():
    """Category Cc but newline and tab, lone surrogates, and what turns the reading direction around."""
    everything = [chr(code) for code in range(0x110000)]
    kept = {c for c in everything if visible(c) == c}
    acting = {c for c in everything if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")} - {"\n", "\t"}
    turning = {
        c for c in everything if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI")
    }
    assert not kept & (acting | turning)
    assert not {c for c in everything if unicodedata.category(c)[0] in "LMNPS"} - kept


def test_a_very_long_completion_is_cut_in_the_middle(run, capsys):
    complete(run / RL, 5, ["begin " + "x" * 300_000 + " end"])
    text = shown(capsys, str(run))
    assert len(text) < 100_000
    assert "begin" in text
    assert "end" in text
    assert "characters left out" in text
    assert shorten("x" * 10, 10) == "x" * 10


def test_columns_follow_the_width(stage):
    def rows(width: int) -> int:
        console = Console(file=io.StringIO(), width=width)
        for part in step_view(stage, 4, Filters(), 1, width):
            console.print(part)
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        return sum("#" in line for line in lines)

    assert (rows(120), rows(60), rows(20)) == (1, 2, 2)


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "culprit"), [
    (["missing"], "'missing': no such folder"),
    (["run/summary.json"], "'run/summary.json': a file, not a run folder"), (["empty"], "'empty': not a run folder"),
    (["."], "give one, such as run"), ([f"run/{SFT}"], "only RL writes them"),
    (["run", "--stage", SFT], f"these have: {RL}"),
    (["run", "--stage", "reasonin_rl"], f"did you mean '{RL}'"),
    (["run", "--step", "7"], "the nearest is 4 (of 1 to 4)"), (["run", "--step", "x"], "invalid int value"),
    (["run", "--reward", "accuracy"], "expected NAME<NUMBER"),
    (["run", "--reward", "accuracy<"], "expected NAME<NUMBER"),
    (["run", "--reward", "accuracy<nan"], "'nan' is not a number"),
    (["run", "--reward", "accuracy<none"], "'none' is not a number"),
    (["run", "--reward", "acuracy<1"], "did you mean 'accuracy'"), (["run", "--text", ""], "--text"),
    (["run", "--limit", "0"], "--limit 0"), (["run", "--page", "x"], "unknown option '--page'"), ([], "RUN"),
    (["run", "--html", "empty"], "--html 'empty': a folder; give the name of a file, such as empty/page.html"),
    (["run", "--html", "run/summary.json/page.html"], "is a file, not a folder; give another --html"),
    (["run", "--html", "/dev/null"], "not a regular file"),
    (["run", "--html", "page.html", "--step", "1"], "--step: not with --html"),
    (["run", "--html", "page.html", "--stage", "x"], "--stage 'x'"),
    (["missing", "--html", "page.html"], "'missing': no such folder"),
])  # fmt: skip
def test_a_mistake_is_one_line(run, arguments, culprit, capsys, monkeypatch):
    monkeypatch.chdir(run.parent)
    Path("empty").mkdir()
    before = sorted(run.parent.rglob("*"))
    assert culprit in refused(capsys, main(["view", *arguments]))
    assert sorted(run.parent.rglob("*")) == before


def test_a_run_without_completions(run, capsys):
    for file in (run / RL / "completions").iterdir():
        file.unlink()
    assert "only RL writes them" in refused(capsys, main(["view", str(run)]))


def test_stages_stand_in_the_order_of_the_recipe(run):
    for name in ("reward-safety", "4-helpfulness-rl", "mine", "0-base"):
        (run / name).mkdir()
        (run / name / "metrics.jsonl").write_text("")
    (run / "notes").mkdir()
    names = [stage.name for stage in open_run(str(run))]
    assert names == ["0-base", SFT, RL, "reward-safety", "4-helpfulness-rl", "mine"]


def test_a_step_that_is_gone_is_said(stage):
    """A resumed run takes back its last steps while they are looked at."""
    with pytest.raises(UserError, match="the nearest is 4"):
        stage.groups(5)
    assert press(State(5), Command("j"), stage).notice.endswith("the nearest is 4 (of 1 to 4)")


def test_looking_needs_no_torch(run):
    code = f"import sys; from stages.cli import main; main(['view', {str(run)!r}]); print('torch' in sys.modules)"
    done = python("-c", code)
    assert done.stdout.endswith("False\n"), done.stderr


def test_the_commands_help(capsys):
    assert main(["--help"]) == 0
    assert "view     RUN" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(["view", "--help"])
    assert left.value.code == 0
    assert "--reward 'NAME<NUMBER'" in capsys.readouterr().out


def test_the_curve_of_held_out_problems_up_to_the_step(run, capsys):
    def point(step: int, value: float) -> dict[str, Any]:
        return {"step": step, "eval/pass@1": value, "eval/pass@1_ci95": [value - 0.05, value + 0.1]}

    points = {step: point(step, step / 100) for step in (10, 20, 30, 40, 50)}
    lines(run / RL / "metrics.jsonl", [point(0, 0.05), *(row(step) | points.get(step, {}) for step in range(1, 61))])
    for step in (4, 35, 60):
        rows = [sample(step, "p", "?", "text", {"accuracy": 1.0})]
        lines(run / RL / "completions" / f"step-{step:06d}.jsonl", rows)
    said = " ".join(shown(capsys, str(run), "--step", "35").split())  # however wide the terminal
    end = "step 50: 50.0 [45, 60]"
    near = "step 10: 10.0 [5, 20] step 20: 20.0 [15, 30] step 30: 30.0 [25, 40]"
    assert f"held-out pass@1 % step 0: 5.0 [0, 15] {near} … {end}" in said
    text = shown(capsys, str(run), "--step", "4")
    assert f"held-out pass@1 %  step 0: 5.0 [0, 15]  … {end}" in text
