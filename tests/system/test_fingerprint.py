"""Hashes stand in run folders: what they come out as was taken from the code before they lay in one place."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from grpo.checkpoint.sealed import damage, seal
from grpo.config.data import DataConfig
from grpo.data.rows import rows_hash
from grpo.evaluation.result import prompt_hash, template_hash
from grpo.system.fingerprint import changes, checksum, digest, file_hash, model_identity, texts_hash, versions
from stages.recipe.handover import sealed
from stages.recipe.lineage import Lineage, model_hash
from stages.recipe.parts import Parts

VALUE = {"b": [1, 2.5, None, True, "สวัสดี"], "a": {"z": "1", "y": []}}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "0-base" / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text('{"a": 1}\n')
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    (folder / ".hidden").write_text("x")
    (folder / "sub" / "f").write_text("y")
    return folder


def test_values_and_rows():
    assert digest(VALUE) == "a6f3f88c27a7c614"
    assert digest({1: {3}}) == "aa2f68e18ec92699"  # as it prints, where JSON has no word for it
    assert rows_hash([{"b": "ก", "a": 1}, {"x": [Path("p")]}]) == "922b841991e8deb6"
    assert rows_hash([]) == texts_hash([]) == "e3b0c44298fc1c14"


def test_files_and_models(model):
    assert file_hash(model / "model.safetensors") == "40aff2e9d2d8922e"
    assert checksum(model / "model.safetensors").startswith("40aff2e9d2d8922e")
    assert model_identity(str(model)) == "fc904aeb29c7d719"
    assert model_identity("hub/name") == "hub/name"
    assert model_hash(str(model)) == "714d3b2a344a93f7"
    assert model_hash("hub/name") == "c16d31ea82402ff4"
    (model.parent / "manifest.json").write_text(json.dumps({"stage": "0-base", "hash": "abc", "parents": {}}))
    assert model_hash(str(model)) == "abc"
    (model / "model.safetensors").unlink()
    assert sealed(model.parent) == {
        ".hidden": "2d711642b726b044", "config.json": "e8c628edc9968ef0", "sub/f": "a1fce4363854ff88"}  # fmt: skip


def test_an_edited_file_is_another(tmp_path):
    (tmp_path / "f").write_text("one")
    before = file_hash(tmp_path / "f")
    (tmp_path / "f").write_text("other")
    assert file_hash(tmp_path / "f") != before


def test_stages_parts_evaluations_and_seals(tmp_path):
    assert Lineage({"seed": 0, "x.y": [1]}, {"b": "2", "a": "1"}, {"base": "p"}).hash == "9e7d790e9d5502a1"
    data = DataConfig(fn="a.b", system="ก", suffix="!")
    # A tokenizer's several templates count in the order that it has them.
    assert template_hash(SimpleNamespace(chat_template={"default": "d", "a": "b"}), data) == "336067f4d0244381"
    assert prompt_hash(data) == "22069fe7d720631e"
    head = '{"origin": "o", "from": 0, "prompts": 2, "sha256": "b6ccc73e6981417b5b6c13996c264900f8154457d62c82521ee8cc942e5acef7"}'  # noqa: E501
    (tmp_path / "part-00000000.jsonl").write_text(f'{head}\n{{"a": "ก"}}\n')
    assert Parts(tmp_path, "o").read() == (2, [{"a": "ก"}])
    assert Parts(tmp_path, "other").read() == (0, [])
    folder = tmp_path / "sealed"
    folder.mkdir()
    (folder / "f.json").write_text("{}")
    seal(folder, 4)
    assert damage(folder, 4) is None
    content = json.loads((folder / "manifest.json").read_text())
    assert content["sha256"] == "cb51cd30f57415876c8dfb4bda1a941c68325ee6f25b4be0df3b3aa9a14487eb"


def test_versions_and_differences():
    assert versions(["numpy", "no-such-package"])["no-such-package"] is None
    assert versions(["numpy"])["numpy"]
    assert changes({"gone": 1, "same": 2, "other": 3}, {"other": 4, "same": 2, "new": None}) == {
        "other": "other: 3 -> 4", "new": "new: (not set) -> None", "gone": "gone: 1 -> (not set)"}  # fmt: skip
