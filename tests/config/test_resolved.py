"""The resolved config reads back as itself, presets are what is documented, and every setting is read by some code."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo.config.algorithm import PRESETS
from grpo.config.file import read_config, validate
from grpo.config.training import RLConfig
from grpo.config.yaml import dump_yaml
from grpo.evaluation.metrics import GENERAL_METRICS
from stages.recipe.config import RecipeConfig
from stages.recipe.pipeline import save_config
from stages.recipe.table import STAGES
from support.recipes import PLAIN, REPOSITORY, SMALL, TREES, changed, owner, sections


def round_trip(config: RecipeConfig, folder: Path) -> RecipeConfig:
    """What a run writes as its config.yaml, read again."""
    folder.mkdir(exist_ok=True)
    save_config(config, folder)
    return read_config(RecipeConfig, folder / "config.yaml")


@pytest.mark.parametrize("name", TREES)
def test_the_resolved_config_of_a_run_reads_back_as_itself(name, tmp_path):
    config = RecipeConfig.model_validate(TREES[name])
    again = round_trip(config, tmp_path)
    assert again == config
    assert round_trip(again, tmp_path) == config


@pytest.mark.parametrize("preset", PRESETS)
def test_so_does_one_with_a_preset(preset, tmp_path):
    config = RecipeConfig.model_validate(changed(SMALL, f"reasoning_rl.preset={preset}"))
    assert round_trip(config, tmp_path) == config


DOCUMENTED: dict[str, dict[str, Any]] = {
    "deepseek_r1": {"loss": {"aggregation": "sequence", "clip_low": 10, "clip_high": 10, "beta": 0.001}},
    "dapo": {"loss": {"aggregation": "token", "clip_low": 0.2, "clip_high": 0.28}, "truncated": "penalise"},
    "dr_grpo": {"loss": {"aggregation": "constant"}, "advantage": {"scale": "none"}},
    "gspo": {"loss": {"ratio": "sequence", "aggregation": "sequence", "clip_low": 0.0003, "clip_high": 0.0004}},
    "cispo": {"loss": {"clip": "cispo", "aggregation": "token", "clip_low": None, "clip_high": 4}},
    "dppo": {"loss": {"clip": "dppo", "aggregation": "token", "clip_low": 0.15, "clip_high": 0.15}},
    "maxrl": {"loss": {"aggregation": "constant"}, "advantage": {"scale": "mean"}},
    "scalerl": {
        "loss": {"clip": "cispo", "aggregation": "prompt", "clip_low": None, "clip_high": 4},
        "advantage": {"scale": "batch"},
    },
}  # docs/algorithm.md, "Presets"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_its_documented_values_and_nothing_else(preset):
    ours = validate(RLConfig, PLAIN | {"preset": preset}, "preset").model_dump()
    written_out = validate(RLConfig, PLAIN | DOCUMENTED[preset], "by hand").model_dump()
    assert ours == written_out | {"preset": preset}
    assert ours != validate(RLConfig, PLAIN, "defaults").model_dump() | {"preset": preset}


OTHERS: dict[str, list[Any]] = {
    "aggregation": ["token", "sequence"], "clip_low": [0.5], "clip_high": [0.5], "beta": [0.5], "truncated": ["mask"],
    "scale": ["batch", "none"], "ratio": ["token"], "clip": ["ppo"],
}  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_a_key_beside_the_preset_wins_and_the_rest_stays(preset):
    tree = PLAIN | {"preset": preset}
    for key, value in DOCUMENTED[preset].items():
        for name in value if isinstance(value, dict) else [key]:
            expected = validate(RLConfig, tree, "preset").model_dump()
            section = expected[key] if isinstance(value, dict) else expected
            section[name] = next(other for other in OTHERS[name] if other != section[name])
            beside = {key: {name: section[name]}} if isinstance(value, dict) else {key: section[name]}
            assert validate(RLConfig, tree | beside, "beside").model_dump() == expected


def test_an_override_beside_a_preset_wins_too(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(dump_yaml(PLAIN | {"preset": "deepseek_r1"}))
    config = read_config(RLConfig, file, ["loss.beta=0.5"])
    assert (config.loss.beta, config.loss.clip_high) == (0.5, 10)
    assert read_config(RLConfig, file, ["preset=null"]).loss.beta == 0


# --- every setting is used --------------------------------------------------------------------------------------------

VALIDATORS = {"model_validator", "field_validator"}
# Not read as attributes: by their names in a loop, or before there is a typed config.
READ_OTHERWISE = {
    *((("GeneralEvalConfig", name), "stages/recipe/evaluation.py", "getattr(config, name)) for name in GENERAL_METRICS")
      for name in GENERAL_METRICS),
    *((("RecipeConfig", key), "stages/recipe/table.py", "getattr(self.config, self.key)") for key in STAGES),
    (("RLConfig", "preset"), "grpo/config/algorithm.py", 'tree.get("preset")'),
}  # fmt: skip


def reads(tree: ast.AST) -> Iterator[str]:
    """Names of attributes that are read, validators apart: what only they look at is not used."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and any(name_of(item) in VALIDATORS for item in node.decorator_list):
            continue
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        yield from reads(node)


def name_of(decorator: ast.expr) -> str:
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    return target.id if isinstance(target, ast.Name) else ""


def test_every_setting_is_read_by_some_code():
    files = [file for folder in ("grpo", "rewards", "stages") for file in (REPOSITORY / folder).rglob("*.py")]
    used = {name for file in files for name in reads(ast.parse(file.read_text(encoding="utf-8")))}
    written = {(owner(kind, name).__name__, name) for kind in sections() for name in kind.model_fields}
    unused = {(section, name) for section, name in written if name not in used}
    assert unused <= {place for place, _, _ in READ_OTHERWISE}
    for _, file, code in READ_OTHERWISE:
        assert code in (REPOSITORY / file).read_text()
