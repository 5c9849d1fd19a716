"""Data as people have it on their disks: what a file or folder is called, it is read as; nothing is guessed or lost."""

import bz2
import gzip
import json
import lzma
import os
import socket
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import feather

from grpo.config.data import DataConfig
from grpo.data.folders import every_file
from grpo.data.rows import load_rows, renamed, rows_hash
from grpo.errors import UserError

ROWS = [{"question": "สอง?", "answer": "007"}, {"question": "two,\n2?", "answer": "2"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = 'question,answer\nสอง?,007\n"two,\n2?",2\n'


def load(path, **settings):
    return load_rows(DataConfig(path=str(path), **settings))


def refused(path, *says, **settings):
    with pytest.raises(UserError) as caught:
        load(path, **settings)
    assert "\n" not in str(caught.value)
    assert [words for words in says if words not in str(caught.value)] == []


def parquet(file: Path, rows=ROWS) -> bytes:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.read_bytes()


def zstd(text: bytes) -> bytes:
    packed = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(packed, "zstd") as stream:
        stream.write(text)
    return packed.getvalue().to_pybytes()


FILES = {
    "d.jsonl": LINES.encode(), "d.json": LINES.encode(), "d.ndjson": LINES.encode(),
    "array.json": json.dumps(ROWS).encode(), "array.jsonl": json.dumps(ROWS).encode(),
    "pretty.json": json.dumps(ROWS, indent=2).encode(),
    "inside.json": json.dumps({"version": 1, "data": ROWS}, indent=1).encode(),
    "inside_one_line.json": json.dumps({"data": ROWS}).encode(),
    "bom.jsonl": b"\xef\xbb\xbf" + LINES.encode(), "windows.jsonl": LINES.replace("\n", "\r\n").encode(),
    "no_last_line_end.jsonl": LINES.rstrip().encode(), "CAPITALS.JSONL": LINES.encode(),
    "d.csv": CSV.encode(), "bom.csv": b"\xef\xbb\xbf" + CSV.encode(),
    "semicolons.csv": CSV.replace("question,", "question;").replace("?,007", "?;007").replace('",2', '";2').encode(),
    "d.tsv": CSV.replace("question,", "question\t").replace("?,007", "?\t007").replace('",2', '"\t2').encode(),
    "d.jsonl.gz": gzip.compress(LINES.encode()), "d.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "d.csv.gz": gzip.compress(CSV.encode()), "d.jsonl.bz2": bz2.compress(LINES.encode()),
    "d.jsonl.xz": lzma.compress(LINES.encode()), "d.jsonl.zst": zstd(LINES.encode()), "d.csv.zst": zstd(CSV.encode()),
    "my.data.v2.jsonl": LINES.encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    assert load(tmp_path / name) == ROWS


BROKEN = {
    "cut.jsonl.gz": (gzip.compress(LINES.encode() * 50)[:-20], "damaged"),
    "cut.jsonl.zst": (zstd(LINES.encode() * 50)[:-20], "damaged"),
    "cut.jsonl.xz": (lzma.compress(b"{}")[:-5], "damaged"),
    "not.jsonl.gz": (LINES.encode(), "damaged"), "empty.jsonl": (b"", "no rows"), "empty.csv": (b"", "no rows"),
    "empty.json": (b"[]", "no rows"), "header.csv": (b"question,answer\n", "no rows"),
    "comma.jsonl": (b'{"question": "1"},\n{"question": "2"},\n', "line 1: not valid JSON"),
    "cut.json": (json.dumps(ROWS, indent=1).encode()[:-3], "not valid JSON"),
    "texts.json": (b'["a", "b"]', "expected JSON objects, one a line or in one list"),
    "deep.json": (b"[" * 99999, "not valid JSON"),
    "two.json": (json.dumps({"train": ROWS, "test": ROWS}).encode(), "the lists train, test"),
    "surrogate.jsonl": (b'{"question": "\\ud83d"}\n', "line 1: half of a surrogate pair"),
    "utf16.jsonl": (LINES.encode("utf-16"), "UTF-16 text: save it as UTF-8"),
    "latin.csv": (b"question\n\xe9\n", "not UTF-8"),
    "pointer.parquet": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    "ragged.csv": (b"question,answer\na,b,c\n", "line 2: 3 cells, but the first line names 2"),
    "spaces.csv": (b"question answer\na,b\n", "line 2: 2 cells, but the first line names 1"),
    "twice.csv": (b"question,question\na,b\n", "a name of its own"),
    "twice.jsonl": (b'{"question": "a", "question": "b"}\n', "line 1: not valid JSON: a key stands twice"),
    "quote.csv": (b'question\n"a', "line 2"),
    "d.txt": (b"text", "give .jsonl, .json, .csv"), "d.pkl": (b"x", "give .jsonl"),
    "d.parquet.gz": (b"x", "give .jsonl"),
    "fake.arrow": (b"no", "not an arrow file"), "fake.parquet": (b"no", "not a parquet file"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(tmp_path, name):
    content, says = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, name, says)


def test_a_row_that_holds_lists_is_a_row(tmp_path):
    row = {"prompt": "p", "examples": [{"a": 1}], "tests": [{"input": "1", "output": "2"}]}
    (tmp_path / "one.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "pretty.json").write_text(json.dumps(row, indent=1))
    assert load(tmp_path / "one.jsonl") == load(tmp_path / "pretty.json") == [row]


def test_mixed_types_and_keys_stay_as_they_are(tmp_path):
    """`datasets` refuses the first, adds None for the second and parses the third."""
    rows = [{"answer": 1}, {"answer": "one", "date": "2024-01-01"}, {"answer": [1.0, None], "x": {"y": True}}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [list(row.items()) for row in load(tmp_path / "d.jsonl")] == [list(row.items()) for row in rows]


def test_the_index_of_pandas_is_a_column_and_equal_columns_are_refused(tmp_path):
    (tmp_path / "d.csv").write_text(",question\n0,1+1\n")
    assert load(tmp_path / "d.csv") == [{"Unnamed: 0": "0", "question": "1+1"}]
    pyarrow.parquet.write_table(pyarrow.table([["a"], ["b"]], names=["prompt", "prompt"]), tmp_path / "d.parquet")
    refused(tmp_path / "d.parquet", "several columns 'prompt'")


def test_an_empty_cell_is_nothing(tmp_path):
    (tmp_path / "d.csv").write_text("question,answer,level\n1+1,,nan\n")
    assert load(tmp_path / "d.csv") == [{"question": "1+1", "answer": None, "level": "nan"}]


def test_tables_hold_what_json_has(tmp_path):
    from datetime import datetime
    from decimal import Decimal

    rows = [{"q": "x", "at": datetime(2024, 1, 1), "d": Decimal("1.5"), "b": "é".encode(), "t": [{"a": 1}, {"b": 2}]}]
    parquet(tmp_path / "d.parquet", rows)
    loaded = load(tmp_path / "d.parquet")
    table = [{"a": 1, "b": None}, {"a": None, "b": 2}]
    assert loaded == [{"q": "x", "at": "2024-01-01 00:00:00", "d": "1.5", "b": "é", "t": table}]
    assert rows_hash(loaded) == rows_hash(json.loads(json.dumps(loaded)))
    parquet(tmp_path / "picture.parquet", [{"q": "x", "image": b"\x89PNG\xff"}])
    refused(tmp_path / "picture.parquet", "column 'image' holds bytes")


def test_arrow_and_save_to_disk(tmp_path):
    dataset = Dataset.from_list(ROWS)
    dataset.save_to_disk(tmp_path / "one", num_shards=2)
    DatasetDict({"train": dataset, "test": dataset.select([1])}).save_to_disk(tmp_path / "several")
    dataset.select([1, 0]).save_to_disk(tmp_path / "chosen")
    feather.write_feather(dataset.data.table, tmp_path / "d.feather")
    assert load(tmp_path / "one") == load(tmp_path / "several") == load(tmp_path / "d.feather") == ROWS
    assert load(next((tmp_path / "several" / "train").glob("*.arrow"))) == ROWS
    assert load(tmp_path / "several", split="test") == ROWS[1:]
    assert load(tmp_path / "chosen") == ROWS[::-1]
    refused(tmp_path / "several", "no split 'dev'", "train, test", split="dev")


def test_folders(tmp_path):
    shards, hub, mixed = tmp_path / "shards", tmp_path / "hub", tmp_path / "mixed"
    for folder in (shards, hub / "data", hub / "other", mixed):
        folder.mkdir(parents=True)
    for number in (0, 1):
        parquet(shards / f"part-{number}.parquet", ROWS[number : number + 1])
        parquet(hub / "data" / f"train-0000{number}-of-00002.parquet", ROWS[number : number + 1])
    parquet(hub / "data" / "test-00000-of-00001.parquet", ROWS[:1])
    (shards / "LICENSE").write_text("free")
    assert (
        load(shards) == load(hub) == load(str(shards / "*.parquet")) == load(hub / "data" / "train-*.parquet") == ROWS
    )
    assert load(hub, split="test") == ROWS[:1]
    refused(hub, "no split 'validation'", "train, test", split="validation")
    (mixed / "a.jsonl").write_text(LINES)
    (mixed / "b.csv").write_text(CSV)
    refused(mixed, "several kinds (.csv, .jsonl)", "**/*.csv'")
    refused(tmp_path / "mixed" / "*", "several kinds")
    refused(tmp_path / "none-*.jsonl", "no file fits")
    (mixed / "test.jsonl").write_text(LINES)
    refused(mixed, "no split 'train' in this folder (it has: test)")  # as the hub has it
    (tmp_path / "bare").mkdir()
    refused(tmp_path / "bare", "no data files")
    refused(mixed / "a.jsonl", "'split' is of a folder", split="test")


def test_a_folder_is_looked_through_once_and_not_its_programs(tmp_path, monkeypatch):
    """`path: .` in a clone took 50 seconds: each of forty patterns was looked for in the virtual environment too."""
    for name in ("env/lib", "node_modules/a", ".git", "__pycache__", "sub"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "train.jsonl").write_text(LINES)
    (tmp_path / "env" / "pyvenv.cfg").write_text("home = /usr/bin")
    looks = []
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda *given, **how: looks.append(given) or walk(*given, **how))
    monkeypatch.setattr("fsspec.spec.AbstractFileSystem.glob", lambda *_, **__: pytest.fail("looks again"))
    assert load(tmp_path) == ROWS
    assert len(looks) == 1
    ours = {".git/train.jsonl", "__pycache__/train.jsonl", "sub/train.jsonl"}  # what the input's hash is of
    assert {file.relative_to(tmp_path).as_posix() for file in every_file(str(tmp_path))} == ours
    monkeypatch.setattr("grpo.data.folders.MOST_ENTRIES", 1)
    refused(tmp_path, "more than 1 files in this folder: name the one that holds the data")


def test_a_folder_that_cannot_be_looked_through_is_refused(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.jsonl").write_text(LINES)
    scan = os.scandir

    def closed(place):
        if str(place).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", closed)
    refused(tmp_path, "Permission denied")


def test_a_folder_with_configurations(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: m/*.jsonl\n"
        "- config_name: socratic\n  data_files: s/*.jsonl\n---\n# A set\n"
    )
    for name, lines in (("m", LINES), ("s", LINES.splitlines()[0])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "all.jsonl").write_text(lines)
    assert load(tmp_path, subset="main") == ROWS
    assert load(tmp_path, subset="socratic") == ROWS[:1]
    refused(tmp_path, "set subset, one of: main, socratic")
    refused(tmp_path, "no configuration 'other' (it has: main, socratic)", subset="other")


def test_paths(tmp_path, monkeypatch):
    (tmp_path / "d.jsonl").write_text(LINES)
    (tmp_path / "a[1].jsonl").write_text(LINES)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert load("~/d.jsonl") == load("d.jsonl") == load("./d.jsonl") == load("a[1].jsonl") == load("[de].jsonl") == ROWS
    for path in ("./none", "/no/such/file", "~/none", "none.csv.gz"):
        refused(path, "no such file")
    for path in ("https://host/d.jsonl", "s3://bucket/d.parquet", "hf://datasets/a/b/d.jsonl"):
        refused(path, "an address, and nothing is fetched")


def test_columns_rename_on_reading(tmp_path):
    rows = [{"task": "1+1", "meta": {"gold": "2"}, "answer": "prose"}, {"task": "2+2", "meta": None, "answer": "x"}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "task", "answer": "meta.gold", "prose": "answer"}
    loaded = load(tmp_path / "d.jsonl", columns=columns)
    assert loaded[0] == {"meta": {"gold": "2"}, "prompt": "1+1", "answer": "2", "prose": "prose"}
    assert (loaded[1]["answer"], loaded[1]["prose"]) == (None, "x")
    refused(tmp_path / "d.jsonl", "no column 'prompt'", "{prompt: task}", columns={"task": "prompt"})
    refused(tmp_path / "d.jsonl", "a column 'answer' already", "other_answer: answer", columns={"answer": "meta.gold"})
    assert renamed([{"a": 1, "b": 2}], {"a": "b", "b": "a"}, "rows") == [{"a": 2, "b": 1}]
    assert "columns" not in DataConfig(path="d").model_dump()  # finished runs stay what they are
    assert DataConfig(path="d", columns=columns).model_dump()["columns"] == columns


def test_a_hub_name_without_a_network_is_said_at_once(monkeypatch):
    """The hub's client asked again five times, for 23 seconds."""

    def nobody(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits"))
    for module in ("datasets.config", "huggingface_hub.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", False)
    refused("owner/no-such-set", "no way to https://", "was not fetched before")
