"""How far long work is, said where nobody watches, and on a terminal."""

import io
import sys

import pytest

from grpo.system import progress


def work(note: str = "") -> None:
    with progress.progress("work", total=3, done=1) as bar:
        bar.advance(1, note)
        bar.advance()


def test_plain_lines_are_rare_and_the_last_one_is_there(capsys, monkeypatch):
    work("reward 0.5")
    assert capsys.readouterr().out == "work: 3/3, took 0:00, reward 0.5\n"
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0)
    work()
    assert capsys.readouterr().out == "work: 2/3, about 0:00 left\nwork: 3/3, took 0:00\n"
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    work()
    assert capsys.readouterr().out == ""


def test_work_that_fails_did_not_finish(capsys):
    with pytest.raises(RuntimeError), progress.progress("work", total=3):
        raise RuntimeError
    assert capsys.readouterr().out == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_fits_the_columns(capsys, monkeypatch):
    """Before: as long as label and note were, and on a terminal the bar took the place of the numbers."""
    monkeypatch.setenv("COLUMNS", "80")
    work("n" * 80)
    said = capsys.readouterr().out
    assert len(said) == 81
    assert said.startswith("work: 3/3, took 0:00, nnn")
    assert said.endswith("…\n")
    monkeypatch.setattr(sys, "stdout", Terminal())
    with progress.progress("rejection sampling: sampling", total=12_000) as bar:
        bar.advance(12_000, "12000 of 48000 kept")
    shown = sys.stdout.getvalue()
    assert "rejection sampling: sampling" in shown
    assert "12000/12000" in shown
    assert "12000 of 48000 kept" in shown
