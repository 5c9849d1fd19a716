"""Real disks that fill up or become read-only under a run: small file systems in a namespace of their own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import PATHS

HERE = Path(__file__).parent
ALONE = ["unshare", "-rm"]


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    if not shutil.which("unshare") or subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    done = subprocess.run(
        [*ALONE, sys.executable, str(HERE / "small_disk.py"), str(tmp_path_factory.mktemp("disks"))],
        env=os.environ | {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_disk_of_any_size(cases):
    """A checkpoint that has no room is a warning; metrics, completions and the model stop the run with one line; the
    checkpoints that are there are whole; with more room it ends as on a big disk."""
    ends = []
    for case in cases[:-2]:
        assert case["whole"], case
        assert case["partial"] == [], case
        assert (case["again"], case["equal"]) == ("done", True), case
        if case["end"] != "done":
            assert "No space left on device" in case["end"], case
            assert "are missing" in case["end"], case
            assert "\n" not in case["end"], case
        ends.append((case["end"] == "done", any("no checkpoint at step" in line for line in case["log"])))
    assert (False, True) in ends  # checkpoints went without, then the run could not either
    assert ends[-1] == (True, False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_folder_that_becomes_read_only(cases):
    checkpoints, completions = cases[-2:]
    assert checkpoints["end"] == "done"
    assert any("no checkpoint at step" in line and "Read-only file system" in line for line in checkpoints["log"])
    assert "Read-only file system" in completions["end"]
    for case in (checkpoints, completions):
        assert (case["again"], case["equal"]) == ("done", True), case
