"""The field cases (`cases/field_cases.jsonl`) of code, judge, format and language rewards, kind by kind.

    GRPO_DATA=... python benchmarks/field_cases.py

A row with `convention` has a label that is policy: shown, not counted.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.real_data import rows_of
from rewards.code.reward import code_reward
from rewards.format import format_reward
from rewards.judge.verdicts import PairVerdict, ReferenceVerdict, Unreadable, read_verdict, rubric_verdict
from rewards.language.reward import language_consistency

Row = dict[str, Any]


def observed(row: Row) -> Any:
    """A number, None (no verdict), or for a judge's reply "verdict" or "refused"."""
    text, params = row["completion"], row["params"]
    if row["kind"] == "code":
        return code_reward([text], [params["tests"]])[0]
    if row["kind"] == "format_think":
        asked = {name: [params.get(name)] for name in ("prefill",)}
        options = {name: params[name] for name in ("answer_tag", "code", "strict", "opened") if name in params}
        return format_reward([text], [params.get("prompt", "?")], **asked, **options)[0]
    if row["kind"] == "language":
        return language_consistency([text], **params)[0]
    kinds = {"scores": rubric_verdict(["helpful", "clear"]), "winner": PairVerdict}
    kind = next((kind for name, kind in kinds.items() if f'"{name}"' in text), ReferenceVerdict)
    try:
        read_verdict(text, kind, params["id"])
    except Unreadable:
        return "refused"
    return "verdict"


def judged(row: Row, value: Any) -> str:
    """right, false_positive, false_negative, or excluded (None where a verdict is wanted)."""
    wanted = row["expected"]
    if isinstance(wanted, list):
        low, high = wanted
        if value is None:
            return "excluded"
        return "right" if low - 1e-9 <= value <= high + 1e-9 else "false_positive" if value > high else "false_negative"
    if isinstance(wanted, str):
        return "right" if value == wanted else "false_positive" if value == "verdict" else "false_negative"
    if value is None:
        return "excluded"
    return "right" if bool(value) == wanted else "false_positive" if value else "false_negative"


def results() -> Iterator[tuple[Row, Any, str]]:
    """(row, value, verdict) of the rows of these kinds that hold their completion."""
    for row in rows_of("cases/field_cases.jsonl"):
        if row["kind"] in ("code", "format_think", "language", "judge_reply"):
            value = observed(row)
            yield row, value, judged(row, value)


def main() -> None:
    counts: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for row, value, verdict in results():
        convention = bool(row.get("convention"))
        counts[row["kind"], convention].append(verdict)
        if verdict != "right":
            print(f"{row['id']} {verdict} {value} {'(convention) ' if convention else ''}{row.get('note', '')}")
    for (kind, convention), verdicts in sorted(counts.items()):
        right = verdicts.count("right")
        print(f"{kind}{' (convention)' if convention else ''}: {right} of {len(verdicts)}, "
              f"false positives {verdicts.count('false_positive')}")  # fmt: skip


if __name__ == "__main__":
    main()
