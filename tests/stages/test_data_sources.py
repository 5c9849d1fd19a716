"""Every command reads data through the same reader, and a run notices a change in a folder as it does in a file."""

import json

import pytest

from grpo.config.data import DataConfig
from grpo.data.rows import write_jsonl
from grpo.errors import UserError
from stages.cli import main
from stages.commands.eval import data_settings
from stages.recipe.lineage import input_hashes, without_paths
from stages.recipe.preflight import check_source
from support.command import refused

SCORED = [
    {"prompt": "2+2", "completion": "#### 4", "answer": "4"},
    {"prompt": "2+2", "completion": "#### 5", "answer": "4"},
]


@pytest.mark.parametrize("name", ["d.json", "d.csv", "d.jsonl"])
def test_score_reads_what_training_reads(tmp_path, capsys, name):
    texts = {
        "d.json": json.dumps(SCORED, indent=1), "d.jsonl": "".join(json.dumps(row) + "\n" for row in SCORED),
        "d.csv": "prompt,completion,answer\n2+2,#### 4,4\n2+2,#### 5,4\n",
    }  # fmt: skip
    (tmp_path / name).write_text(texts[name])
    assert main(["score", str(tmp_path / name), "--reward", "accuracy"]) == 0
    rewards = [json.loads(line)["rewards"]["accuracy"] for line in capsys.readouterr().out.splitlines()]
    assert rewards == [1.0, 0.0]


@pytest.mark.parametrize("gold", ["NaN", '"nan"', "null"])
def test_nan_is_no_gold(tmp_path, capsys, gold):
    (tmp_path / "d.jsonl").write_text(f'{{"prompt": "x", "completion": "\\\\boxed{{nan}}", "answer": {gold}}}\n')
    assert main(["score", str(tmp_path / "d.jsonl"), "--reward", "accuracy"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["rewards"] == {"accuracy": None}
    assert list(line["errors"]) == ["accuracy"]


def test_a_row_without_a_completion_is_named_with_its_line_where_it_has_one(tmp_path, capsys):
    rows = [*SCORED, {"prompt": "x"}]
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "d.json").write_text(json.dumps(rows))
    for name, says in {
        "d.jsonl": "row 2 (line 3): no 'completion'",
        "d.json": "d.json, row 2: no 'completion'",
    }.items():
        assert says in refused(capsys, main(["score", str(tmp_path / name), "--reward", "format"]))


def test_eval_takes_folders_globs_and_packed_files(tmp_path):
    for name in ("train", "test"):
        write_jsonl(tmp_path / "set" / f"{name}.jsonl", [{"question": "1", "answer": "1"}])
    folder, glob = str(tmp_path / "set"), str(tmp_path / "set" / "te*.jsonl")
    assert data_settings(folder) == {"path": folder, "split": "test"}
    assert data_settings(f"gsm8k={folder}").keys() == {"path", "split", "suffix"}
    assert data_settings(glob) == {"path": glob}
    for missing in (str(tmp_path / "none.csv.gz"), "none.jsonl"):
        with pytest.raises(UserError, match="no such file"):
            data_settings(missing)


def test_before_a_run_its_files_are_looked_at(tmp_path):
    (tmp_path / "d.txt").touch()
    for path, says in {
        "d.txt": "give .jsonl", "none.csv": "no such file", "*.json": "no file fits", ".": "no data files",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=says):
            check_source(DataConfig(path=str(tmp_path / path)))


def test_a_changed_file_in_a_folder_or_a_glob_is_another_input(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"question": "1"}])
    write_jsonl(tmp_path / "b.jsonl", [{"question": "2"}])
    sections = [{"data": {"path": str(path)}} for path in (tmp_path, tmp_path / "*.jsonl", tmp_path / "a.jsonl")]
    assert [without_paths(section) for section in sections] == [{"data": {"path": "(file)"}}] * 3
    before = [list(input_hashes(section).values()) for section in sections]
    write_jsonl(tmp_path / "b.jsonl", [{"question": "3"}])
    after = [list(input_hashes(section).values()) for section in sections]
    assert [old != new for old, new in zip(before, after, strict=True)] == [True, True, False]
    known = {str(tmp_path / "gone-*.jsonl"): "what it was"}
    assert input_hashes({"data": {"path": next(iter(known))}}, known) == known
