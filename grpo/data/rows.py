"""Data sources -> rows: files and folders, hub names or a function; and rows -> a file."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from grpo.config.data import DataConfig
from grpo.config.section import changed
from grpo.data.files import json_values, read_file, table_rows
from grpo.data.folders import find_files, is_path
from grpo.errors import UserError, describe, first_line
from grpo.system.files import write_lines
from grpo.system.fingerprint import texts_hash
from grpo.system.imports import import_path

Row = dict[str, Any]
MOST_ROWS = 10_000_000  # of a data function
NOTHING = ("None", "null", "NULL", "NA", "N/A", "n/a", "<NA>", "#N/A", "#NA")


def is_nothing(value: Any) -> bool:
    """None, or what tables have for it: NaN, and the words that pandas takes for it ("none" may be an answer)."""
    if isinstance(value, str):
        return value.strip() in NOTHING or value.strip().lower() == "nan"
    return value is None or (isinstance(value, float) and math.isnan(value))


def first_present(row: Row, names: Iterable[str]) -> tuple[str | None, Any]:
    """The first of these columns that holds something, and what it holds."""
    return next(((name, row[name]) for name in names if name in row and not is_nothing(row[name])), (None, None))


class NotYet(Exception):
    """Rows that are not to be had so soon."""


def load_rows(data: DataConfig, within: float | None = None) -> list[Row]:
    """All rows of a data source, as plain dicts, cut to `limit`, under the names that `columns` gives.

    Raises:
        UserError: they cannot be read.
        NotYet: not `within` these seconds (None: they are waited for), or not from here.
    """
    path = str(data.path)
    if data.fn is not None:
        rows = _rows_from_function(data.fn, data.kwargs, data.limit, within)
    elif is_path(path):
        rows = [row for file in data_files(data) for row in read_file(file)]
    else:
        rows = _from_hub(path, data, fetch=within is None)
    if not rows:
        raise UserError(f"data '{data.path or data.fn}': no rows")
    rows = rows[: data.limit]
    return renamed(rows, data.columns, f"data '{data.path or data.fn}'") if data.columns else rows


def _rows_from_function(path: str, kwargs: dict[str, Any], limit: int | None, within: float | None) -> list[Row]:
    function, end = import_path(path, "data function"), time.monotonic() + (within or math.inf)
    rows = list[Any]()
    try:
        for row in islice(function(**kwargs), limit or MOST_ROWS + 1):
            rows.append(row)
            if time.monotonic() > end:
                raise NotYet
    except (UserError, NotYet):
        raise
    except Exception as error:  # the user's own code: whatever it raises; its arguments may hold a key
        if within is not None and isinstance(error, FileNotFoundError):
            raise NotYet from error
        raise UserError(f"data function '{path}': {describe(error)}") from error
    if len(rows) > MOST_ROWS:
        raise UserError(f"data function '{path}': more than {MOST_ROWS:,} rows, if it ever ends: set data.limit")
    return [_plain(row, f"data function '{path}', row {number}") for number, row in enumerate(rows)]


def _plain(row: Any, where: str) -> Row:
    """The row in values that JSON has, which is how it is kept and compared.

    Raises:
        UserError: it holds something else.
    """
    try:
        row = json_values(row) if isinstance(row, dict) else {"text": json_values(row)}
        text = json.dumps(row, ensure_ascii=False)
        text.encode()
        names = json.loads(text, object_pairs_hook=list)
        if json.dumps(_pairs(row)) != json.dumps(names):  # a key that is no text would become one
            raise TypeError("a key that is no text")
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: half of a surrogate pair, which is no character") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: no row that JSON could hold: {describe(error)}") from error
    return dict(row)


def _pairs(value: Any) -> Any:
    if isinstance(value, dict):
        return [[name, _pairs(item)] for name, item in value.items()]
    return [_pairs(item) for item in value] if isinstance(value, list) else value


def data_files(data: DataConfig) -> list[Path]:
    """The files of a `path` on this disk, in order."""
    given = {name: getattr(data, name) for name in changed(data, ("split", "subset"))}
    return find_files(str(data.path), **given)


def _from_hub(name: str, data: DataConfig, *, fetch: bool) -> list[Row]:
    """`fetch`: also what is not in the cache."""
    import datasets
    import huggingface_hub

    if name in datasets.packaged_modules._PACKAGED_DATASETS_MODULES:  # a reader, of all files here
        raise UserError(f"data '{name}': no such file or folder; of all files in one, write its path, as ./")
    offline = _no_way_to(datasets.config.HF_ENDPOINT) if fetch else ""
    before = datasets.config.HF_HUB_OFFLINE
    if offline or not fetch:  # what was fetched before is found, and nothing is waited for
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        table = datasets.load_dataset(name, data.subset, split=data.split).with_format("arrow")[:]
    except Exception as error:  # the hub library raises many types; each means the same to the user
        if not fetch:
            raise NotYet from error
        network = f"{offline}, and it was not fetched before: " if offline else ""
        message = f"data '{name}': neither a file or folder here nor a data set the hub gives: {network}"
        raise UserError(f"{message}{first_line(error, typed=True)}") from error
    finally:
        if not fetch:
            datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = before
    return table_rows(table, name)


def _no_way_to(address: str) -> str:
    """Why the hub is not reached, as far as a look at its name tells; empty: it may be."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return ""
    try:
        socket.getaddrinfo(urlparse(address).hostname, None)
    except OSError as error:
        return f"no way to {address} ({first_line(error)})"
    return ""


def renamed(rows: Sequence[Row], columns: Mapping[str, str], source: str) -> list[Row]:
    """The rows with `{new name: column}`, all at once; `a.b` is the column b inside of a, which stays.

    Raises:
        UserError: no row has such a column, or a new name would hide another column.
    """
    have = dict.fromkeys(name for row in rows for name in row)
    for name, column in columns.items():
        if all(_inside(row, column) is None for row in rows):
            turned = (
                f"; it is {{new name: column}}, so {{{column}: {name}}}?" if name in have and column not in have else ""
            )
            raise UserError(f"{source}: columns: no column '{column}' (it has: {', '.join(have)}){turned}")
        if name in have and name not in columns.values():
            hidden = f"{{{name}: {column}, other_{name}: {name}}}"
            raise UserError(f"{source}: columns: there is a column '{name}' already: rename that too, as {hidden}")
    moved = set(columns.values())
    return [
        {name: value for name, value in row.items() if name not in moved}
        | {name: _inside(row, column) for name, column in columns.items()}
        for row in rows
    ]


def _inside(row: Row, column: str) -> Any:
    """A column of a row, or `a.b`: what its column a holds under b."""
    if column in row or "." not in column:
        return row.get(column)
    outer, _, inner = column.partition(".")
    return _inside(row[outer], inner) if isinstance(row.get(outer), dict) else None


def read_jsonl(file: Path) -> list[Row]:
    """One JSON object a line; blank lines skipped; a bad line is a `UserError` naming it."""
    return read_file(file, ".jsonl")


def write_jsonl(file: Path, rows: Iterable[Row]) -> None:
    """Rows to a file that appears whole or not at all. Of several processes the main one writes."""
    write_lines(file, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def rows_hash(rows: Iterable[Row]) -> str:
    """Hash of the content, independent of the order of keys."""
    return texts_hash(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str) + "\n" for row in rows)
