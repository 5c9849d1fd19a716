"""Records of a run that a bad disk or a hand has changed: refused in one line, never a traceback or another summary."""

import json
import random

import pytest
import torch
from safetensors.torch import save_file

from grpo.errors import UserError
from grpo.system.records import read_record, write_record
from stages.recipe.lineage import model_files, model_hash
from support.files import flip


def one_line(error):
    assert "\n" not in str(error)
    return str(error)


@pytest.mark.parametrize("name", ["manifest.json", "stage.json", "summary.json"])
def test_flipped_bits_of_a_finished_run_change_no_summary(pipeline, name):
    """Before: 896 flips of manifests gave 10 tracebacks and one other summary."""
    summary = pipeline.go()
    file = pipeline.run / name if name == "summary.json" else pipeline.folder("cold_start") / name
    whole = file.read_bytes()
    draw, refused = random.Random(0), 0
    for _ in range(30):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        try:
            assert pipeline.go() == summary
        except UserError as error:
            refused += str(file) in one_line(error)
        file.write_bytes(whole)
    assert refused == (0 if name == "summary.json" else 30)
    assert pipeline.ran == ["base", "cold_start", "reasoning_rl"]


@pytest.mark.parametrize("name", ["manifest.json", "stage.json"])
def test_flipped_bits_of_records_without_a_checksum(pipeline, name):
    """Of older versions: what cannot be read is one line."""
    pipeline.go()
    file = pipeline.folder("cold_start") / name
    old = json.loads(file.read_text())
    del old["sha256"]
    whole = (json.dumps(old, indent=2, ensure_ascii=False) + "\n").encode()
    file.write_bytes(whole)
    pipeline.go()
    draw = random.Random(1)
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        try:
            pipeline.go()
        except UserError as error:
            one_line(error)
    assert pipeline.ran == ["base", "cold_start", "reasoning_rl"]


def test_a_manifest_edited_by_hand_is_refused(pipeline):
    """Before: the table showed 100.0."""
    pipeline.go()
    file = pipeline.folder("base") / "manifest.json"
    file.write_text(file.read_text().replace('"pass@1": 0.5', '"pass@1": 1.0'))
    with pytest.raises(UserError, match=r"0-base/manifest\.json' was edited or damaged after it was written: put it"):
        pipeline.go()


def test_a_record_is_what_was_written(tmp_path):
    file = tmp_path / "r.json"
    content = {"b": [1, 2.5, None, "ก"], "a": {"z": 1, "y": {}}, "tiny": 5e-324}
    write_record(file, content)
    assert read_record(file, "") == content
    write_record(file, read_record(file, ""))
    assert list(read_record(file, "")) == ["b", "a", "tiny"]
    whole = file.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            file.write_bytes(damaged)
            with pytest.raises(UserError, match=r"r\.json'.*damaged"):
                read_record(file, "")


@pytest.fixture
def finished(tmp_path):
    """The folder of a finished stage, and its model's."""
    folder = tmp_path / "1-cold-start"
    (folder / "model").mkdir(parents=True)
    save_file({"weight": torch.ones(3)}, folder / "model" / "model.safetensors")
    (folder / "model" / "config.json").write_text("{}")
    manifest = {"stage": folder.name, "hash": "abc", "parents": {}, "model_files": model_files(folder / "model")}
    write_record(folder / "manifest.json", manifest)
    return folder


def test_init_with_an_edited_model_of_a_finished_run_is_refused(finished):
    """Before: the manifest beside it was believed."""
    assert model_hash(str(finished / "model")) == "abc"
    flip(finished / "model" / "model.safetensors", -1)
    with pytest.raises(UserError, match=r"not what stage cold_start left: 'model\.safetensors' was changed.*--init"):
        model_hash(str(finished / "model"))
    elsewhere = finished.parent / "mine"
    (finished / "model").rename(elsewhere)
    assert model_hash(str(elsewhere)) != "abc"


def test_init_with_an_edited_manifest_is_refused(finished):
    file = finished / "manifest.json"
    file.write_text(file.read_text().replace("abc", "abd"))
    with pytest.raises(UserError, match="was edited or damaged"):
        model_hash(str(finished / "model"))


def test_another_folder_beside_a_stages_model_is_not_that_model(finished):
    (finished / "model").rename(finished / "best")
    assert model_hash(str(finished / "best")) != "abc"
