"""Files as people have them -> rows: JSON lines and arrays, CSV, parquet and arrow, packed or not, alone or in folders.

JSON and CSV are read here, not by `datasets`: it parses dates and numbers, adds the keys of other rows as None, and
refuses columns of mixed types. What a row holds is what the file says.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from grpo.errors import UserError, first_line

FORMS = ".jsonl, .json, .csv, .tsv (also .gz, .bz2, .xz, .zst), .parquet or .arrow, a folder or a glob of them"
LISTS = ("data", "rows", "train", "test", "examples", "instances", "items", "questions", "problems", "samples")
ROW = ("prompt", "question", "problem", "messages", "conversations", "instruction", "query", "input", "text")
PACKED = (".gz", ".bz2", ".xz", ".zst")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # may be half of a character that UTF-8 cannot write


def read_file(file: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The rows of one file, in the form that its name says, or `kind`.

    Raises:
        UserError: it is not there, or not what its name says; where it is wrong.
    """
    kind = check_file(file, kind)
    try:
        with file.open("rb") as stream:
            head = stream.read(64)
        if head.startswith(b"version https://git-lfs"):
            raise UserError(f"data '{file}': a pointer of Git LFS, not the data: run git lfs pull")
        return _READERS[kind](file)
    except UnicodeDecodeError as error:
        written = "UTF-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "not UTF-8"
        raise UserError(f"data '{file}': {written} text: save it as UTF-8") from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise UserError(f"data '{file}': damaged: {first_line(error)}") from error


def check_file(file: Path, kind: str | None = None) -> str:
    """How the file is read; it is there, and can be opened.

    Raises:
        UserError: there is none, or none of a kind that is read.
    """
    if not file.is_file():
        raise UserError(f"data '{file}': no such file")
    kind = kind or kind_of(file)
    if kind is None:
        raise UserError(f"data '{file}': not of a kind that is read; give {FORMS}")
    file.open("rb").close()
    return kind


def kind_of(file: Path) -> str | None:
    """The suffix that says how a file is read; None: it is not."""
    name = file.name.lower()
    packed = name.endswith(PACKED)
    kind = Path(name.rpartition(".")[0] if packed else name).suffix
    return kind if kind in _READERS and not (packed and kind in TABLES) else None


def _text(file: Path, newline: str | None = None) -> io.TextIOWrapper:
    unpacked: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _zstd}
    unpack = unpacked.get(file.suffix.lower())
    return io.TextIOWrapper(unpack(file) if unpack else file.open("rb"), encoding="utf-8-sig", newline=newline)


def _zstd(file: Path) -> io.BytesIO:
    import pyarrow

    try:
        with pyarrow.input_stream(str(file), compression="zstd") as stream:
            return io.BytesIO(stream.read())
    except OSError as error:
        raise EOFError(first_line(error)) from error


def _read_json(file: Path) -> list[dict[str, Any]]:
    """One JSON object a line, blank lines skipped; or one array of objects, or an object that holds one."""
    rows: list[dict[str, Any]] = []
    with _text(file) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            if not rows and not _is_object(line):
                return _objects(_parsed(line + lines.read(), f"data '{file}'", number), file)
            row = _parsed(line, f"data '{file}'", number)
            if not isinstance(row, dict):
                raise UserError(f"data '{file}', line {number}: expected a JSON object, got {type(row).__name__}")
            rows.append(row)
    return _objects(rows[0], file) if len(rows) == 1 else rows


def _is_object(line: str) -> bool:
    """Whether the first line is a row by itself, or was meant to be; else the whole file may be one value."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return not line.lstrip().startswith(("[", "{"))


def _parsed(text: str, where: str, line: int) -> Any:
    try:
        value = json.loads(text.rstrip(), object_pairs_hook=_object)
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}, line {line}: half of a surrogate pair, which is no character") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where}, line {line + error.lineno - 1}: not valid JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}, line {line}: not valid JSON: {first_line(error)}") from error
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError(f"a key stands twice in an object of {', '.join(name for name, _ in pairs)}")
    return fields


def _objects(value: Any, file: Path) -> list[dict[str, Any]]:
    """The rows in a JSON value: those of an array, or of the one list in an object that is no row itself."""
    if isinstance(value, dict):
        lists = [name for name, item in value.items() if name in LISTS and _are_objects(item)]
        if not lists or any(name in value for name in ROW):
            return [value]
        if len(lists) > 1:
            raise UserError(f"data '{file}': one object with the lists {', '.join(lists)}: write each to its own file")
        return list(value[lists[0]])
    if not isinstance(value, list) or (value and not _are_objects(value)):
        raise UserError(f"data '{file}': expected JSON objects, one a line or in one list")
    return value


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _read_csv(file: Path) -> list[dict[str, Any]]:
    """Cells as they are written; an empty one is None. The delimiter is the first that cuts the header."""
    csv.field_size_limit(sys.maxsize)
    with _text(file, newline="") as lines:
        header = lines.readline()
        marks = ("\t", ",") if kind_of(file) == ".tsv" else (",", ";", "\t", "|")
        mark = next((mark for mark in marks if mark in header), marks[0])
        lines.seek(0)
        try:
            cells = csv.reader(lines, delimiter=mark, strict=True)
            names = [name.strip() for name in next(cells, [])]
            names[:1] = [name or "Unnamed: 0" for name in names[:1]]  # the numbers that pandas puts before the rows
            if len(set(names)) < len(names) or "" in names:
                raise UserError(f"data '{file}': each column needs a name of its own in the first line, got {names}")
            rows = []
            for row in cells:
                if len(row) != len(names) and row:
                    where = f"data '{file}', line {cells.line_num}"
                    raise UserError(f"{where}: {len(row)} cells, but the first line names {len(names)} (by {mark!r})")
                if row:
                    rows.append({name: cell or None for name, cell in zip(names, row, strict=True)})
        except csv.Error as error:
            raise UserError(f"data '{file}', line {cells.line_num}: {first_line(error)}") from error
    return rows


def _read_parquet(file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file).read()  # this file, whatever its folder is called
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"data '{file}': not a parquet file: {first_line(error)}") from error
    return table_rows(table, file)


def _read_arrow(file: Path) -> list[dict[str, Any]]:
    """A stream, as `datasets` writes them, or a file."""
    import pyarrow

    for opened in (pyarrow.ipc.open_stream, pyarrow.ipc.open_file):
        try:
            return table_rows(opened(pyarrow.memory_map(str(file))).read_all(), file)
        except (pyarrow.ArrowException, OSError) as error:
            problem = first_line(error)
    raise UserError(f"data '{file}': not an arrow file: {problem}")


def table_rows(table: Any, source: Path | str) -> list[dict[str, Any]]:
    """The rows of an arrow table, in values that JSON has."""
    if twice := [name for name, count in Counter(table.column_names).items() if count > 1]:
        raise UserError(f"data '{source}': there are several columns '{twice[0]}': rename them")
    rows = [json_values(row) for row in table.to_pylist()]
    for name in table.column_names:
        if any(_holds_bytes(row[name]) for row in rows):
            raise UserError(f"data '{source}': column '{name}' holds bytes (pictures, sound?): only text is read")
    return rows


def json_values(value: Any) -> Any:
    """What JSON has no word for, as text or lists; bytes that are no text, and anything else, stay."""
    if isinstance(value, dict):
        return {name: json_values(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(item) for item in value]
    if isinstance(value, (date, time, timedelta, Decimal)):
        return str(value)
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            return value.decode()
    return value.tolist() if hasattr(value, "tolist") else value


def _holds_bytes(value: Any) -> bool:
    if isinstance(value, (dict, list)):
        return any(map(_holds_bytes, value.values() if isinstance(value, dict) else value))
    return isinstance(value, bytes)


TABLES = {".parquet": _read_parquet, ".arrow": _read_arrow, ".feather": _read_arrow}
_READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    **dict.fromkeys((".jsonl", ".json", ".ndjson"), _read_json),
    **dict.fromkeys((".csv", ".tsv"), _read_csv),
    **TABLES,
}
