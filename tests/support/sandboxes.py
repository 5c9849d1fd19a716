"""The code reward as root and as an ordinary user, with namespaces and without."""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PLACES = [(user, isolation) for user in ("root", "ordinary user") for isolation in ("namespaces", "limits")]
_ROOT = Path(__file__).resolve().parent.parent.parent
_NOBODY = 54321
_JUDGE = """
import json, sys
from rewards.code.reward import code_reward
errors = {}
job = json.load(sys.stdin)
values = code_reward(job["completions"], job["tests"], log_error=errors.__setitem__, **job["options"])
print(json.dumps([values, list(errors.values())]))
"""


def judge_in(place, codes, tests, before="", **options):
    """(the rewards of some programs against the same tests, what went wrong) in one of `PLACES`.

    `before` is run first in the process that judges.
    """
    user, isolation = place
    if user == "root" and os.geteuid() != 0:
        pytest.skip("needs root")
    completions = [f"```python\n{code}\n```" for code in codes]
    job = {"completions": completions, "tests": [tests] * len(codes), "options": {"isolation": isolation} | options}
    done = _start(user, before + _JUDGE, json.dumps(job))
    assert done.returncode == 0, done.stderr
    values, errors = json.loads(done.stdout.splitlines()[-1])
    if errors and "ermission" in errors[0] and isolation == "namespaces":
        pytest.skip(f"no namespaces here: {errors[0]}")
    return values, errors


def _start(user, script, given=""):
    python, search = _python(user)
    return subprocess.run(
        [python, "-c", script],
        input=given,
        capture_output=True,
        text=True,
        cwd="/",
        timeout=300,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "1"},
        **(_identity(user)),
    )


def _identity(user):
    if user == "root" or os.geteuid() != 0:
        return {}
    return {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}


@cache
def _python(user):
    """An interpreter that the user may start, and where it finds this tree and its packages."""
    search = os.pathsep.join([str(_ROOT), *(path for path in sys.path if path.endswith("site-packages"))])
    for python in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        try:
            done = subprocess.run(
                [python, "-c", "import rewards.code.reward"],
                cwd="/",
                capture_output=True,
                env={"PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "1"},
                **_identity(user),
            )
        except (OSError, TypeError):
            continue
        if done.returncode == 0:
            return python, search
    pytest.skip(f"an {user} can start no Python here that reads this folder")
