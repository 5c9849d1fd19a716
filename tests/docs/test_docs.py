"""The documents name what exists, and their numbers are those of the code."""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo.advantages import group_advantages
from grpo.config.algorithm import PRESETS, AdvantageConfig, DifficultyConfig, LossConfig
from grpo.config.data import CurveConfig, DataConfig, EvalConfig
from grpo.config.training import RLConfig
from grpo.config.yaml import load_yaml
from grpo.evaluation.curve import Curve
from grpo.evaluation.metrics import Judges
from grpo.learner.stats import StepStats
from grpo.loss import Normaliser, grpo_loss
from grpo.monitoring.journal import advance
from grpo.monitoring.metrics import rollout_metrics
from grpo.rollout.difficulty import PassRates
from grpo.scoring.table import Reward
from grpo.system.clock import Clock
from grpo.types import TrainState
from stages.recipe.config import RLStageConfig
from support.documents import PAGES, REPOSITORY, text
from support.groups import group_of, prompt_of

ALGORITHM = text("algorithm.md")


@pytest.mark.parametrize("document", PAGES, ids=lambda file: file.name)
def test_functions_named_in_the_documents_exist(document):
    for name in re.findall(r"`((?:grpo|rewards|stages)(?:\.\w+)+)`", text(document)):
        assert exists(name), f"{document.name} names {name}"


def exists(name: str) -> bool:
    """Whether this is a module, or something in one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def sources() -> Iterator[Path]:
    for package in ("grpo", "rewards", "stages"):
        yield from sorted((REPOSITORY / package).rglob("*.py"))


def test_modules_named_in_the_code_exist():
    """In docstrings and comments, by import path: a path of a file would not follow when the module moves."""
    for source in sources():
        code = source.read_text(encoding="utf-8")
        for name in re.findall(r"`((?:grpo|rewards|stages)(?:\.\w+)+)`", code):
            assert exists(name), f"{source.relative_to(REPOSITORY)} names {name}"
        for file in re.findall(r"`((?:grpo|rewards|stages)/[\w/]+\.py)`", code):
            assert (REPOSITORY / file).is_file(), f"{source.relative_to(REPOSITORY)} names {file}"


PUBLIC = ("rewards.accuracy", "rewards.code", "rewards.judge", "rewards.language", "grpo.config", "grpo.data")


@pytest.mark.parametrize(
    "document", [page for page in PAGES if page.name != "CONTRIBUTING.md"], ids=lambda file: file.name
)
def test_what_is_public_is_named_by_its_short_path(document):
    """A reader who copies a path should not depend on the file behind it; what is public stands in `__all__`."""
    for package in PUBLIC:
        for name in importlib.import_module(package).__all__:
            long = re.findall(rf"{re.escape(package)}\.\w+\.{name}\b", text(document))
            assert not long, f"{document.name}: {long} instead of {package}.{name}"
    assert "rewards.code.tests" not in text(document), "rewards.code_tests is the public one"


@pytest.mark.parametrize("document", PAGES, ids=lambda file: file.name)
def test_tests_named_in_the_documents_exist(document):
    for file, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text(document)):
        assert (REPOSITORY / file).is_file(), f"{document.name} names {file}"
        tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not name or name in functions, f"{document.name} names {file}::{name}"


def test_settings_named_in_the_algorithm_exist():
    """Those with a section: `loss.kl`, `advantage.std_floor`, ..."""
    named = [path for path in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)[`:]", ALGORITHM) if path.split(".")[0] in SECTIONS]
    assert len(named) > 5
    for path in named:
        section: Any = RLStageConfig
        for key in path.split("."):
            assert key in section.model_fields, path
            section = section.model_fields[key].annotation


SECTIONS = ("advantage", "loss", "sampling", "optimizer", "checkpoint")


def test_presets_are_those_documented():
    (block,) = re.findall(r"```yaml\n(.*?)```", ALGORITHM, re.DOTALL)
    assert load_yaml(block, "yaml") == PRESETS


def metrics_documented() -> Iterator[str]:
    for line in text("metrics.md").splitlines():
        if line.startswith("| `"):
            yield from re.findall(r"`([^`]+)`", line.split("|")[1])


def metrics_written() -> set[str]:
    config = RLConfig.model_validate(
        {
            "steps": 1, "group_size": 2, "prompts_per_step": 1, "sampling": {"max_tokens": 2}, "optimizer": {"lr": 1},
            "loss": {"distill": "teacher"},
        }
    )  # fmt: skip
    clock = Clock()
    with clock("update"):
        stats = StepStats().metrics(config) | {"grad_norm": None, "lr": 1.0, "applied": 0.0}
    row = advance(TrainState(), rollout_metrics([group_of(prompt_of([9]), [0.0, 1.0])], ["r"]), stats, clock, 2)
    rates = PassRates(DifficultyConfig(reward="r", retire=0.9)).metrics(0)
    config_of_curve = EvalConfig(data=DataConfig(path="d"), samples=2, k=(2,))
    curve = Curve(config_of_curve, CurveConfig(steps=1), Judges(Reward("accuracy", len)), []).blank
    points = {name.replace("@2", "@<k>") for name in curve}
    extra = {
        *points,
        "draws",
        "informative_fraction",
        "leftovers",
        "setting/<key>",
        *(f"{name}/<task>" for name in rates),
    }
    return {re.sub("^seconds/.*", "seconds/<phase>", name.replace("reward/r", "reward/<name>")) for name in row} | extra


def test_every_metric_is_documented_and_none_else():
    documented = list(metrics_documented())
    assert len(documented) == len(set(documented))
    assert set(documented) == metrics_written()


def test_the_worked_example():
    """15 right answers at consistency 1 and one at 0.98; 15 right and one wrong."""
    rewards = torch.tensor([[2.0] * 15 + [1.98], [1.0] * 15 + [0.0]], dtype=torch.float64)
    found = {}
    for name, config in {"group": {}, "floor": {"std_floor": 0.1}, "none": {"scale": "none"}}.items():
        found[name] = group_advantages(rewards, torch.ones_like(rewards).bool(), AdvantageConfig(**config))[:, -1]
    assert found["group"].tolist() == pytest.approx([-3.68, -3.75], abs=0.005)
    assert found["floor"][0].item() == pytest.approx(-0.19, abs=0.005)
    assert found["floor"][1] == found["group"][1]
    assert found["none"][0].item() == pytest.approx(-0.019, abs=0.0005)
    for number in ("-3.68", "-3.75", "-0.19", "-0.019"):
        assert f"{number}$" in ALGORITHM


@pytest.mark.parametrize("aggregation", ["sequence", "token", "constant"])
def test_in_the_first_update_ratio_and_clip_change_nothing(aggregation):
    """Where pi_old is pi_theta, every choice has the gradient of the plain policy gradient."""
    logprobs = torch.linspace(-2, -0.1, 12, dtype=torch.float64).reshape(3, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], dtype=torch.float64)
    advantages = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)

    def gradient(**choices: Any) -> torch.Tensor:
        weights = torch.linspace(0.5, 1.5, 12, dtype=torch.float64).reshape(3, 4).requires_grad_()
        config = LossConfig(aggregation=aggregation, **choices)
        loss = grpo_loss(
            logprobs * weights, None, None, logprobs, advantages, mask, config, Normaliser(3, 9, 4, 3)
        ).loss
        return torch.autograd.grad(loss, weights)[0]

    plain = gradient()
    for choices in (
        {"ratio": "sequence"},
        {"clip": "cispo", "clip_low": None, "clip_high": 4},
        {"clip": "dppo"},
        {"clip_low": 10, "clip_high": 10},
        {"clip_low": 1e-4, "clip_high": 1e-4, "dual_clip": 1.01},
    ):
        torch.testing.assert_close(gradient(**choices), plain, rtol=1e-12, atol=1e-15)
