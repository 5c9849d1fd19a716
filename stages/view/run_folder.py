"""What a run folder holds for the viewer. A run that is still going is read as far as it is written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from grpo.errors import UserError, nearest, visible
from grpo.system.files import whole_rows
from grpo.system.numbers import finite_number
from stages.recipe.lineage import read_json
from stages.recipe.table import STAGES

STEP_FILE = re.compile(r"step-(\d+)\.jsonl")
ORDER = {stage.folder: place for place, stage in enumerate(STAGES.values())}


@dataclass(frozen=True)
class Sample:
    """One completion. `place`: which of its siblings it is, from 1; `advantage` as it was trained on."""

    place: int
    completion: str
    rewards: dict[str, float | None]
    reward: float | None
    advantage: float | None
    finish_reason: str


@dataclass(frozen=True)
class SampleGroup:
    """One prompt with its completions, all or those that a filter left; `size`: how many were sampled."""

    id: str
    task: str
    prompt: tuple[tuple[str, str], ...]  # (role, content); a plain prompt has the role ""
    samples: tuple[Sample, ...]
    size: int


@dataclass(frozen=True)
class StageFolder:
    """One stage of a run, read anew at every call."""

    folder: Path

    @property
    def name(self) -> str:
        return visible(self.folder.resolve().name)

    def _files(self) -> dict[int, Path]:
        """Of the completions, by step: a file that is being written has another name."""
        files = {file: STEP_FILE.fullmatch(file.name) for file in (self.folder / "completions").glob("step-*.jsonl")}
        return {int(name[1]): file for file, name in files.items() if name}

    def steps(self) -> list[int]:
        """The steps whose completions are there, in order."""
        return sorted(self._files())

    def groups(self, step: int) -> list[SampleGroup]:
        """What was sampled for the step; a `UserError` where there is no such step."""
        file = self._files().get(step)
        if file is None:
            raise UserError(no_step(self, step))
        rows = [row for _, row in whole_rows(file) if isinstance(row.get("completion"), str)]
        return [_group(list(siblings)) for _, siblings in groupby(rows, lambda row: (row.get("task"), _id(row)))]

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl that have a step."""
        file = self.folder / "metrics.jsonl"
        rows = whole_rows(file) if file.is_file() else ()
        return [row for _, row in rows if isinstance(row.get("step"), int) and finite_number(row["step"]) is not None]

    def reward_names(self, step: int) -> list[str]:
        """The rewards of the whole stage as far as the metrics tell, and those of the step."""
        last = self.metrics()[-1:]
        names = {key.removeprefix("reward/") for row in last for key in row if key.startswith("reward/")}
        samples = [sample for group in self.groups(step) for sample in group.samples]
        return sorted(names | {name for sample in samples for name in sample.rewards})

    def planned_steps(self) -> int | None:
        """How many steps the stage was begun with; None where stage.json does not say."""
        settings = as_dict(self.read("stage.json").get("settings"))
        steps = (value for key, value in settings.items() if re.fullmatch(r"\w+\.steps", key))
        return next((value for value in steps if isinstance(value, int)), None)

    def finished(self) -> bool:
        return (self.folder / "manifest.json").is_file()

    def results(self) -> dict[str, Any]:
        """The numbers of the manifest, as summary.json has them; empty while the stage is unfinished."""
        manifest = self.read("manifest.json")
        metrics = as_dict(manifest.get("metrics"))
        seconds = sum(finite_number(part.get("seconds")) or 0.0 for part in (manifest, metrics))
        return {**metrics, "seconds": seconds} if manifest else {}

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the stage; empty where there is none."""
        file = self.folder / name
        return read_json(file) if file.is_file() else {}


def no_step(stage: StageFolder, step: int) -> str:
    """The message for a step that is not there: the one nearest to it, and the range."""
    steps = stage.steps()
    if not steps:
        return f"stage '{stage.name}' has no completions by step"
    near = min(steps, key=lambda there: abs(there - step))
    text = f"stage '{stage.name}' has no completions of step {step}"
    return f"{text}; the nearest is {near} (of {steps[0]} to {steps[-1]})"


def open_run(run: str) -> list[StageFolder]:
    """The stages of a run folder, in the order of the recipe; a stage's folder counts as a run of one stage."""
    folder = Path(run)
    if not folder.is_dir():
        raise UserError(f"'{run}': {'a file, not a run folder' if folder.exists() else 'no such folder'}")
    if _is_stage(folder):
        return [StageFolder(folder)]
    stages = _stages_in(folder)
    if not stages:
        runs = (inner for inner in sorted(folder.iterdir()) if inner.is_dir() and _stages_in(inner))
        hint = next((f"; it holds runs: give one, such as {inner}" for inner in runs), "")
        raise UserError(f"'{run}': not a run folder: no stage in it has metrics or completions{hint}")
    return [StageFolder(stage) for stage in stages]


def _stages_in(folder: Path) -> list[Path]:
    stages = [inner for inner in folder.iterdir() if inner.is_dir() and _is_stage(inner)]
    return sorted(stages, key=lambda stage: (ORDER.get(stage.name, len(ORDER)), stage.name))


def _is_stage(folder: Path) -> bool:
    marks = (folder / "metrics.jsonl", folder / "stage.json")
    return any(mark.is_file() for mark in marks) or bool(StageFolder(folder).steps())


def choose_stage(stages: list[StageFolder], name: str | None) -> StageFolder:
    """The stage of that folder or config section; a `UserError` where there is none."""
    for stage in stages:
        if name in (stage.name, re.sub(r"^\d+-", "", stage.name).replace("-", "_")):
            return stage
    names = [stage.name for stage in stages]
    raise UserError(f"--stage '{name}': no such stage in the run{nearest(str(name), names)}")


def stage_with_completions(stages: list[StageFolder], name: str | None) -> StageFolder:
    """The named stage, else the last one with completions by step; a `UserError` where there are none."""
    having = [stage for stage in stages if stage.steps()]
    if name is None and having:
        return having[-1]
    if name is None:
        raise UserError("no stage of the run has completions by step (completions/step-*.jsonl): only RL writes them")
    stage = choose_stage(stages, name)
    if not stage.steps():
        others = f"; these have: {', '.join(other.name for other in having)}" if having else ""
        raise UserError(f"--stage '{name}': no completions by step there: only RL writes them{others}")
    return stage


def _id(row: dict[str, Any]) -> str:
    return visible(str(row.get("prompt_id", "")))


def _group(rows: list[dict[str, Any]]) -> SampleGroup:
    task, prompt = visible(str(rows[0].get("task", ""))), _prompt(rows[0].get("prompt"))
    samples = tuple(_sample(place, row) for place, row in enumerate(rows, 1))
    return SampleGroup(_id(rows[0]), task, prompt, samples, len(rows))


def _sample(place: int, row: dict[str, Any]) -> Sample:
    rewards = row.get("rewards")
    named = rewards.items() if isinstance(rewards, dict) else ()
    return Sample(
        place=place,
        completion=visible(row["completion"]),
        rewards={visible(name): finite_number(value) for name, value in named},
        reward=finite_number(row.get("reward")),
        advantage=finite_number(row.get("advantage")),
        finish_reason=visible(str(row.get("finish_reason", ""))),
    )


def _prompt(prompt: Any) -> tuple[tuple[str, str], ...]:
    messages = prompt if isinstance(prompt, list) else [{"role": "", "content": prompt or ""}]
    pairs = [(m.get("role", ""), m.get("content", "")) if isinstance(m, dict) else ("", m) for m in messages]
    return tuple((visible(str(role)), visible(str(content))) for role, content in pairs)


def as_dict(value: Any) -> dict[str, Any]:
    """An object of a file; empty where another thing is in its place."""
    return value if isinstance(value, dict) else {}
