"""`grpo view --html`: one file that loads nothing, holds everything, and takes nothing in it for HTML."""

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from stages.cli import main
from stages.view.charts import curves_of
from stages.view.curves import Scale, path, smooth, step_scale, thin, ticks, value_scale
from stages.view.page import duration
from stages.view.run_folder import Sample, SampleGroup, StageFolder
from stages.view.samples import choose, samples_of
from support.view_run import RESULTS, RL, SFT, complete, lines, make_run, row

VOID = ("meta", "path", "input", "br", "link", "img")
LOADING = ("src", "href", "srcset", "action", "data", "poster", "xlink:href", "formaction", "background")
EVIL = """</script></pre><script>alert(1)</script><img src=x onerror=alert(2)><!-- " ' &amp; \x1b[2J ]]>"""


class Page(HTMLParser):
    """Elements, attributes and text of a page; a tag closed out of order fails."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append((self.tags[-1][1].get("type"), data))
        else:
            self.texts.append(data.removeprefix("\n") if self.open and self.open[-1] == "pre" else data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(run: Path, *arguments: str) -> tuple[Page, str]:
    file = run.parent / "page.html"
    assert main(["view", str(run), "--html", str(file), *arguments]) == 0
    text = file.read_text(encoding="utf-8")
    return Page(text), text


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


# --- what stands there ---------------------------------------------------------------------------------------------


def test_the_file_appears_whole(run, capsys):
    page_of(run)
    assert capsys.readouterr().out == f"written: {run.parent / 'page.html'}\n"
    assert sorted(file.name for file in run.parent.iterdir()) == ["page.html", "run"]


def test_every_metric_of_every_stage_is_there(run):
    page, _ = page_of(run)
    for name in (*row(1), "loss", "lr"):
        if name != "step":
            assert name in page.texts or any(name in text for text in page.texts), name
    assert f"{RL} " in page.text
    assert "4 of 9 steps unfinished" in page.text


def test_the_table_with_its_intervals(run):
    page, _ = page_of(run)
    assert "small.yamlseed 31 min 15 s" in page.text
    assert "50.0 [35, 65]" in page.text
    bars = [attributes["style"] for attributes in page.all("i") if "style" in attributes]
    assert bars == ["width:50.00%", "left:35.00%;right:35.00%", "width:100.00%", "width:75.00%"]
    assert "temperature 0.6 (top-p 0.95, 4 samples a problem); an answer counts only in the required" in page.text


def test_without_a_summary_the_finished_stages_make_the_table(run):
    with_summary, _ = page_of(run)
    (run / "summary.json").unlink()
    page, _ = page_of(run)
    assert page.text.split() == with_summary.text.replace("small.yamlseed 31 min 15 s", "").split()


def test_one_stage(run):
    page, _ = page_of(run, "--stage", SFT)
    assert len(page.all("figure")) == 3  # loss, lr, seconds
    assert page.all("article") == []
    assert "50.0 [35, 65]" in page.text  # the table is of the whole run


def test_a_run_that_has_just_begun(tmp_path):
    lines(tmp_path / "run" / RL / "metrics.jsonl", [])
    page, _ = page_of(tmp_path / "run")
    assert "no step yet" in page.text
    assert page.all("table") == []


def test_samples_best_and_worst_with_rewards_and_advantages(run):
    page, _ = page_of(run)
    assert len(page.all("article")) == 4 * 2  # steps, prompts
    for step in range(1, 5):
        for text in (f"right of step {step}", f"wrong of step {step}", f"What is {step}+1?"):
            assert any(text in shown for shown in page.texts)
    assert "best reward 1.5 advantage +1 accuracy 1 format 1" in " ".join(page.text.split())
    assert "worst reward 0.5 advantage -1 accuracy 0 format 1" in " ".join(page.text.split())
    assert "cut at the limit" in page.text


# --- hostile and large ---------------------------------------------------------------------------------------------


def test_nothing_of_a_completion_is_html(run):
    harmless = [tag for tag, _ in page_of(run)[0].tags]
    complete(run / RL, 4, [EVIL, "b"], prompt=EVIL, task=EVIL, rewards=[{EVIL: 1.0}, {EVIL: 0.0}])
    lines(run / RL / "metrics.jsonl", [{"step": step, EVIL: float(step), "reward": 0.0} for step in (1, 2)])
    summary = {"config": EVIL, "seed": EVIL, "seconds": None, "stages": [{"stage": EVIL, **RESULTS}]}
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "2-<i>").mkdir()
    lines(run / "2-<i>" / "metrics.jsonl", [{"step": 1, "<script>": 1}])
    page, text = page_of(run)
    seen = EVIL.replace("\x1b", "␛")
    assert page.texts.count(seen) >= 4  # completion, prompt, task, reward
    assert {tag for tag, _ in page.tags} <= set(harmless)
    assert "img" not in harmless
    assert len([kind for kind, _ in page.scripts if kind is None]) == 1
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "alert(1)</script>" not in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", text)
    for kind, script in page.scripts:
        if kind == "application/json":
            json.loads(script)


def test_nothing_is_loaded_and_only_our_script_may_run(run):
    page, text = page_of(run)
    loaded = [(t, value) for t, attributes in page.tags for name in LOADING if (value := attributes.get(name))]
    assert all(tag == "a" and value.startswith("#") for tag, value in loaded)
    assert not re.search(r"https?:|//\w|@import|url\(", text)
    (script,) = (content for kind, content in page.scripts if kind is None)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_a_thousand_steps_of_fifty_metrics_are_a_few_megabytes(run):
    names = [f"metric_{index}" for index in range(50)]
    rows = [
        {"step": step, **{name: math.sin(step * (i + 1)) * 1234.5678 for i, name in enumerate(names)}}
        for step in range(1, 1001)
    ]
    lines(run / RL / "metrics.jsonl", rows)
    complete(run / RL, 1, ["x" * 1_000_000, "y" * 1_000_000], prompt="z" * 1_000_000)
    page, text = page_of(run)
    assert len(text) < 2_000_000
    assert all(name in page.texts for name in names)


def test_a_run_of_any_language(run):
    texts = ["หลักหน่วย 3+3=6", "答案是四十二", "مرحبا", "🎉 e\u0301"]
    complete(run / RL, 4, texts, rewards=[{"accuracy": float(i)} for i in range(4)])
    page, _ = page_of(run)
    assert texts[0] in page.texts
    assert texts[3] in page.texts


# --- which samples -------------------------------------------------------------------------------------------------


def group(name: str, *rewards: float | None, task: str = "t") -> SampleGroup:
    samples = tuple(Sample(i, f"{name}{i}", {}, reward, 0.0, "stop") for i, reward in enumerate(rewards))
    return SampleGroup(name, task, (), samples, len(samples))


def test_widest_spread_lowest_and_highest_mean():
    groups = [group("mid", 1, 1.2), group("low", 0, 0.1), group("wide", 0, 3), group("high", 2, 2.5)]
    chosen = [(choice.reason, choice.group.id) for choice in choose(groups)]
    assert chosen == [("widest spread", "wide"), ("lowest mean", "low"), ("highest mean", "high")]
    assert [(name, sample.completion) for name, sample in choose(groups)[0].shown] == [
        ("best", "wide1"),
        ("worst", "wide0"),
    ]


def test_every_task_has_its_turn():
    groups = [group(f"{task}{i}", 0, i, task=task) for task in "abc" for i in range(5)]
    assert [choice.group.task for choice in choose(groups)] == ["a", "b", "c"] * 2


@pytest.mark.parametrize(("groups", "shown"), [
    ([], []), ([group("a", None, None)], [("equal", "equal")]), ([group("a", 1)], [("only",)]),
    ([group("a", 1, 1, None)], [("equal", "equal")]), ([group("a", None, 2, 1, None)], [("best", "worst")]),
])  # fmt: skip
def test_few_completions(groups, shown):
    assert [tuple(name for name, _ in choice.shown) for choice in choose(groups)] == shown


def test_steps_from_first_to_last(tmp_path):
    run = make_run(tmp_path / "run", steps=21)
    assert [samples.step for samples in samples_of(StageFolder(run / RL))] == [1, 6, 11, 16, 21]
    assert samples_of(StageFolder(run / SFT)) == []


# --- curves --------------------------------------------------------------------------------------------------------


def test_thinning_keeps_ends_and_spikes():
    values: list[float | None] = [0.0] * 10_000
    values[1234], values[7777] = 5.0, -5.0
    kept = thin(values, 400)
    assert len(kept) <= 402
    assert {0, 1234, 7777, 9999} <= set(kept)
    assert thin([None] * 1000, 100)
    assert thin([1.0, None, 2.0]) == [0, 1, 2]


def test_the_mean_does_not_lag_and_keeps_gaps():
    line = [float(i) for i in range(60)]
    inner = slice(4, -4)
    assert smooth(line)[inner] == pytest.approx(line[inner])
    assert smooth([1.0, None, 3.0, 5.0, None])[1::3] == [None, None]
    assert smooth([None, 3.0, None]) == [None, 3.0, None]


def test_a_gap_breaks_the_line_and_a_lone_value_is_a_dot():
    scale = Scale(0, 4)
    assert path([0, 1, 2, 3, 4], [0.0, 4.0, None, 2.0, None], scale, scale) == "M0 1000L250 0M750 500h0"


@pytest.mark.parametrize(("low", "high", "labels"), [
    (0.0, 1.0, ["0", "0.5", "1.0"]), (-0.2, 0.05, ["-0.2", "-0.1", "0"]),
    (0.99990, 1.0, ["0.99990", "0.99995", "1.00000"]), (0.0, 1.5e-4, ["0", "5e-05", "1.0e-04", "1.5e-04"]),
    (0.0, 6e-7, ["0", "2e-07", "4e-07", "6e-07"]), (0.0, 250000.0, ["0", "1e+05", "2e+05"]),
    (12000.0, 12010.0, ["12000", "12005", "12010"]),
])  # fmt: skip
def test_ticks_are_round_and_tell_each_other_apart(low, high, labels):
    found = ticks(Scale(low, high), 4)
    assert [tick.label for tick in found] == labels
    assert all(0 <= tick.place <= 100 for tick in found)


def test_scales():
    assert value_scale([0.1, 1.0]).low == 0
    assert value_scale([0.9, 1.0]).low == pytest.approx(0.895)
    assert value_scale([0.0, 0.0]) == Scale(0, 1)
    assert value_scale([-2.0, -2.0]) == Scale(-3, -1)
    assert value_scale([1e-7, 1e-5], log=True).log
    assert not value_scale([0.0, 1e-5], log=True).log
    assert [tick.label for tick in ticks(value_scale([1e-7, 1e-5], log=True), 4)] == ["1e-07", "1e-06", "1e-05"]
    assert step_scale([7]) == Scale(6, 8)
    assert [tick.label for tick in ticks(step_scale([1, 3]), 5, whole=True)] == ["1", "2", "3"]


def test_charts_of_metrics():
    """What never changes is a line of text, unless it is what people look for; an unknown metric has its chart."""
    curves = curves_of([row(step) for step in range(1, 31)])
    names = {
        section: [[line.name for line in chart.lines] for chart in charts]
        for section, charts in curves.sections.items()
    }
    assert names == {
        "Rewards": [["reward"], ["reward/accuracy"], ["reward/<b>"]],
        "Policy": [["kl"], ["clip_fraction"], ["logprob_mismatch", "logprob_mismatch_max"]],
        "Time": [["seconds/generate", "seconds/update"], ["seconds"]],
        "Other metrics": [["of_my_own"]],
    }
    assert curves.constant == [("correction", "–")]
    (kl, _, mismatch), (phases, _) = curves.sections["Policy"], curves.sections["Time"]
    assert kl.lines[0].raw.count("M") == 5  # 4 gaps
    assert kl.lines[0].last == "0.3"
    assert kl.points["lines"][0]["values"][6] is None
    assert mismatch.log
    assert all(line.area and not line.mean for line in phases.lines)


def test_values_that_are_no_numbers():
    rows: list[dict[str, Any]] = [{"step": 2, "a": "text", "b": math.inf}, {"step": 1, "a": None}]
    curves = curves_of(rows)
    assert curves.sections == {}
    assert curves.constant == [("a", "–"), ("b", "–")]


def test_duration():
    assert [duration(s) for s in (0.4, 59, 75.2, 3599.9, 7380)] == [
        "0 s",
        "59 s",
        "1 min 15 s",
        "1 h 0 min",
        "2 h 3 min",
    ]


def curve_row(step: int, points: dict[int, float]) -> dict[str, Any]:
    """A row of a run that is evaluated on its way; row 0 has nothing else."""
    own = row(step) if step else dict.fromkeys(row(1)) | {"step": 0}
    value = points.get(step)
    around = None if value is None else [value - 0.05, value + 0.1]
    return own | {"eval/pass@1": value, "eval/pass@1_ci95": around, "seconds/evaluation": 2.0 if around else 0.0}


def test_a_curve_of_held_out_problems_with_its_band():
    points = {0: 0.1, 10: 0.2, 20: 0.4, 30: 0.3}
    curves = curves_of([curve_row(step, points) for step in range(31)])
    (chart,) = curves.sections["Held-out problems"]
    (line,) = chart.lines
    assert (line.name, line.last) == ("eval/pass@1", "0.3 [0.25, 0.4]")
    assert line.mean.count("M") == 1  # no gaps between the points
    assert line.band.endswith("Z")
    assert chart.points["x"] == [0, 30]
    assert chart.points["lines"][0] == {
        "steps": [0, 10, 20, 30], "values": [0.1, 0.2, 0.4, 0.3], "mean": None,
        "band": [[0.05, 0.2], [0.15, 0.3], [0.35, 0.5], [0.25, 0.4]],
    }  # fmt: skip
    # Row 0 changes nothing of the other charts, and the seconds of points are none of a step's.
    plain = curves_of([row(step) for step in range(1, 31)])
    assert {name: charts for name, charts in curves.sections.items() if name != "Held-out problems"} == plain.sections
    assert curves.constant == [*plain.constant, ("seconds/evaluation", "2")]
    assert curves_of([curve_row(0, points)]).sections[""][0].lines[0].last == "0.1 [0.05, 0.2]"
