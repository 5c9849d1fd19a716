"""Data sources -> rows: JSONL, parquet, hub names or a function; and rows -> a file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from grpo.config.data import DataConfig
from grpo.errors import UserError, first_line
from grpo.system.files import write_lines
from grpo.system.fingerprint import texts_hash
from grpo.system.imports import import_path

Row = dict[str, Any]


def is_nothing(value: Any) -> bool:
    """None, or what tables write for it: NaN, also as text."""
    if isinstance(value, str):
        return value.strip().lower() == "nan"
    return value is None or (isinstance(value, float) and math.isnan(value))


def first_present(row: Row, names: Iterable[str]) -> tuple[str | None, Any]:
    """The first of these columns that holds something, and what it holds."""
    return next(((name, row[name]) for name in names if name in row and not is_nothing(row[name])), (None, None))


def load_rows(data: DataConfig) -> list[Row]:
    """All rows of a data source, as plain dicts, cut to `limit`."""
    if data.fn is not None:
        rows = _rows_from_function(data.fn, data.kwargs)
    else:
        assert data.path is not None
        rows = _rows_from_path(data.path, data)
    if not rows:
        raise UserError(f"data '{data.path or data.fn}': no rows")
    return rows[: data.limit]


def _rows_from_function(path: str, kwargs: dict[str, Any]) -> list[Row]:
    function = import_path(path, "data function")
    try:
        rows = list(function(**kwargs))
    except UserError:
        raise
    except Exception as error:  # the user's own code: whatever it raises, its name and its arguments are said
        raise UserError(f"data function '{path}' with {kwargs}: {type(error).__name__}: {error}") from error
    return [row if isinstance(row, dict) else {"text": row} for row in rows]


def _rows_from_path(path: str, data: DataConfig) -> list[Row]:
    file = Path(path)
    if file.is_dir():
        raise UserError(f"data '{path}': a folder; give a .jsonl or .parquet file")
    if file.suffix == ".jsonl" or file.suffix == ".json":
        return read_jsonl(file)
    if file.suffix == ".parquet":
        if not file.is_file():
            raise UserError(f"data '{path}': no such file")
        import pyarrow.parquet

        try:
            return pyarrow.parquet.read_table(file).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"data '{path}': not a parquet file: {first_line(error)}") from error
    return _rows_from_hub(path, data)


def _rows_from_hub(name: str, data: DataConfig) -> list[Row]:
    import datasets

    try:
        return list(datasets.load_dataset(name, data.subset, split=data.split))
    except Exception as error:  # the hub library raises many types; each means the same to the user
        message = f"data '{name}': neither a .jsonl/.parquet file nor a data set the hub gives: "
        raise UserError(f"{message}{first_line(error, typed=True)}") from error


def read_jsonl(file: Path) -> list[Row]:
    """One JSON object a line; blank lines skipped; a bad line is a `UserError` naming it."""
    if not file.is_file():
        raise UserError(f"data '{file}': no such file")
    rows = []
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise UserError(f"data '{file}', line {number}: expected a JSON object, got {type(row).__name__}")
                rows.append(row)
    except json.JSONDecodeError as error:
        raise UserError(f"data '{file}', line {number}: not valid JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"data '{file}': not UTF-8 text") from error
    return rows


def write_jsonl(file: Path, rows: Iterable[Row]) -> None:
    """Rows to a file that appears whole or not at all. Of several processes the main one writes."""
    write_lines(file, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def rows_hash(rows: Iterable[Row]) -> str:
    """Hash of the content, independent of the order of keys."""
    return texts_hash(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str) + "\n" for row in rows)
