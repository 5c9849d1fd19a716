"""The command line: what it refuses, and Python as another process runs it."""

import os
import subprocess
import sys
from typing import Any

import pytest

from support.processes import ROOT


def refused(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The one line of a refusal."""
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def python(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """This Python with these words, in the folder of the project unless the options say otherwise."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    settings = {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run([sys.executable, *words], text=True, timeout=200, check=False, **settings)
