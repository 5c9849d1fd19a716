"""What an evaluation asks of a model, wherever that runs, and its result: eval.json and the files beside it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo.config.data import DataConfig, EvalConfig
from grpo.data.rows import Row, load_rows, read_jsonl, rows_hash, write_jsonl
from grpo.errors import UserError
from grpo.evaluation.judging import check_golds, judge_groups
from grpo.evaluation.kept import kept_file
from grpo.evaluation.metrics import Judges, general_metrics, general_row, math_metrics, problem_row
from grpo.system.fingerprint import checksum, texts_hash
from grpo.system.records import read_record, write_record
from grpo.system.world import is_main
from grpo.types import Group, Sampling

PROBLEMS = "problems_sha256"  # of the file with the results of each problem


@dataclass(frozen=True)
class EvalResult:
    """`metrics` is what eval.json holds, `problems` one row a problem, `completions` one row a sample."""

    metrics: dict[str, Any]
    problems: list[Row]
    completions: list[Row]

    def __getitem__(self, name: str) -> Any:
        return self.metrics[name]

    def write(self, file: Path, completions: Path | None = None) -> None:
        """`file`, `<stem>.problems.jsonl` beside it and the completions; the summary last: with it all is there."""
        if is_main():
            write_jsonl(completions or file.with_name(file.stem + ".completions.jsonl"), self.completions)
            write_jsonl(problems_file(file), self.problems)
            write_record(file, {**self.metrics, PROBLEMS: checksum(problems_file(file))})
            kept_file(file).unlink(missing_ok=True)


def problems_file(file: Path) -> Path:
    """Where the per-problem results of an eval.json lie."""
    return file.with_name(file.stem + ".problems.jsonl")


def read_result(file: Path) -> tuple[dict[str, Any], list[Row]]:
    """What `EvalResult.write` has written: the metrics, and the rows of the problems.

    Raises:
        UserError: it is none, is not whole, or was edited.
    """
    way, problems = "evaluate again", problems_file(file)
    metrics = read_record(file, way)
    if "data_hash" not in metrics:
        raise UserError(f"'{file}': not an eval.json (no data_hash in it)")
    if not problems.is_file():
        raise UserError(f"'{file}': its per-problem results '{problems.name}' are not beside it")
    found = checksum(problems)
    if metrics.pop(PROBLEMS, found) != found:
        raise UserError(f"'{problems}' was edited or damaged after it was written: put it back, or {way}")
    return metrics, read_jsonl(problems)


@dataclass(frozen=True)
class Asked:
    """The problems, and what judges the answers to them. `start`: when it began, of time.monotonic."""

    config: EvalConfig
    judges: Judges
    seed: int
    rows: list[Row]
    source: str  # of the rows, in messages
    sampling: Sampling
    start: float

    @classmethod
    def read(cls, config: EvalConfig, judges: Judges, seed: int, rows: list[Row] | None, most: int) -> Asked:
        """`rows` replaces the rows of `config.data`, and `most` a max_tokens that is not set.

        Raises:
            UserError: the data has no golds.
        """
        start = time.monotonic()
        rows = load_rows(config.data) if rows is None else rows
        source = config.data.path or config.data.fn or "rows"
        if rows:
            check_golds(rows, judges.accuracy, source)
        sampling = Sampling(config.samples, config.max_tokens or most, config.temperature, config.top_p)
        return cls(config, judges, seed, rows, source, sampling, start)

    def result(
        self,
        model: str,
        groups: list[Group],
        measured: Sequence[Sequence[Row]],
        more: Mapping[str, Any],
        general: Sequence[Group] = (),
    ) -> EvalResult:
        """Judge the groups of the problems; those of the general prompts are judged already.

        Args:
            measured: what each completion's row says besides its text, its `tokens` among it.
            more: metrics of this kind of model.
        """
        judged = list(zip(judge_groups(groups, self.judges.rewards()), measured, strict=True))
        problems = [problem_row(group, self.judges, [row["tokens"] for row in rows]) for group, rows in judged]
        general_problems = [general_row(group) for group in general]
        metrics = {
            "model": model,
            "data": self.source,
            **math_metrics(problems, self.config, self.judges),
            **general_metrics(general_problems),
            "temperature": self.config.temperature,
            "top_p": self.config.top_p,
            "max_tokens": self.sampling.max_tokens,
            "seed": self.seed,
            "prompt_hash": prompt_hash(self.config.data),
            "data_hash": rows_hash(self.rows),
            **more,
            "seconds": round(time.monotonic() - self.start, 3),
        }
        without_votes = [{key: value for key, value in problem.items() if key != "votes"} for problem in problems]
        judged += [(group, token_counts(group)) for group in general]
        completions = [row for group, rows in judged for row in completion_rows(group, rows)]
        return EvalResult(metrics, [*without_votes, *general_problems], completions)


def template_hash(tokenizer: Any, data: DataConfig) -> str:
    """Hash of everything that turns a question into a prompt."""
    template = data.template or getattr(tokenizer, "chat_template", None)
    return texts_hash([json.dumps([template, data.system, data.suffix])])


def prompt_hash(data: DataConfig) -> str:
    """Hash of what is put around a question; all that is known of the prompt where a server renders it."""
    return template_hash(None, data)


def token_counts(group: Group) -> list[Row]:
    """What is measured of the completions of a model here."""
    return [{"tokens": len(rollout.completion.token_ids)} for rollout in group.rollouts]


def completion_rows(group: Group, measured: Sequence[Row]) -> list[Row]:
    """One row a sample."""
    prompt = group.prompt
    return [
        {
            "id": prompt.id,
            "sample": number,
            "prompt": prompt.messages if prompt.messages is not None else prompt.text,
            "completion": rollout.completion.text,
            "answer": prompt.answer,
            "rewards": rollout.rewards,
            "finish_reason": rollout.completion.finish_reason,
            **row,
        }
        for number, (rollout, row) in enumerate(zip(group.rollouts, measured, strict=True))
    ]
