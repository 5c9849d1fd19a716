"""What a stage changed, in one sentence with p-values."""

import pytest

from grpo.evaluation.result import EvalResult
from stages.recipe.changes import before, change
from stages.view.page import page
from stages.view.run_folder import open_run
from support.view_run import write

SETTINGS = {
    "data_hash": "a", "samples_per_problem": 2, "temperature": 0.6, "top_p": 0.95, "max_tokens": 8,
    "template_hash": "t", "format_required": True,
}  # fmt: skip
PARENTS = {
    "0-base": {}, "1-cold-start": {"base": "0-base"}, "2-reasoning-rl": {"cold_start": "1-cold-start"},
    "3-rejection-sampling": {"reasoning_rl": "2-reasoning-rl", "base": "0-base"},
}  # fmt: skip


def problem(number, right, formed, language=None):
    return {
        "id": str(number), "part": "math", "judged": True, "n": 2, "in_format": formed, "pass@1": right,
        "language_consistency": language,
    }  # fmt: skip


def evaluated(run, name, problems, **others):
    write(run / name / "stage.json", {})
    write(run / name / "manifest.json", {"hash": name, "parents": PARENTS[name], "seconds": 1.0, "metrics": {}})
    EvalResult({**SETTINGS, **others}, problems, []).write(run / name / "eval.json")


@pytest.fixture
def run(tmp_path):
    """Cold start: 20 problems of which 12 came right, all in format."""
    evaluated(tmp_path, "0-base", [problem(number, 0.0, 0) for number in range(20)])
    evaluated(tmp_path, "1-cold-start", [problem(number, float(number < 12), 2, 0.5) for number in range(20)])
    return tmp_path


def test_what_rose_and_what_stayed(run):
    """Of 12 differences all of one sign: 2 of 4,096 patterns of signs are as far from zero."""
    assert change(run / "1-cold-start") == (
        "Against 0-base: pass@1 rose from 0.0 to 60.0 (p < 0.001) and format rose from 0.0 to 100.0 (p < 0.001)."
    )
    more = [problem(number, float(number < 14), 2, 0.5 if number < 10 else None) for number in range(20)]
    more.append({"id": "0", "part": "general", "safety": 1.0})  # was not asked before
    evaluated(run, "2-reasoning-rl", more)
    assert change(run / "2-reasoning-rl") == (
        "Against 1-cold-start: no clear change in pass@1 (+10.0, p = 0.5), format (+0.0, p = 1) and language "
        "(+0.0, p = 1, 10 problems with a value in both)."
    )
    assert change(run / "0-base") is None


def test_the_stage_before_is_the_one_it_was_made_from(run):
    evaluated(run, "2-reasoning-rl", [problem(0, 0.0, 0)])
    (run / "2-reasoning-rl" / "eval.json").unlink()
    evaluated(run, "3-rejection-sampling", [problem(0, 1.0, 2)])
    assert before(run / "3-rejection-sampling") == run / "1-cold-start"  # stage 2 was not evaluated
    write(run / "1-cold-start" / "manifest.json", {"hash": "made anew", "parents": {}})
    assert before(run / "3-rejection-sampling") is None
    write(run / "3-rejection-sampling" / "manifest.json", {"hash": "x", "parents": {"init": "another model"}})
    assert change(run / "3-rejection-sampling") is None


def test_evaluations_that_are_not_comparable_are_not_compared(run):
    evaluated(run, "2-reasoning-rl", [problem(0, 1.0, 2)], max_tokens=16)
    assert change(run / "2-reasoning-rl") == (
        "Not compared with 1-cold-start: max_tokens is 8 and 16; the evaluations were made with other settings."
    )
    (run / "1-cold-start" / "eval.problems.jsonl").write_text("")
    assert "edited or damaged" in (change(run / "1-cold-start") or "")


def test_the_page_says_so(run):
    html = page(str(run), open_run(str(run)), open_run(str(run)))
    assert html.count('<p class="change">') == 1
    assert "Against 0-base: pass@1 rose from 0.0 to 60.0 (p &lt; 0.001)" in html
