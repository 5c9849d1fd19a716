"""examples/minimal.py is `grpo.train` without its surroundings: the same weights, bit for bit."""

import importlib.util
import re
import textwrap
from pathlib import Path

import torch
from safetensors.torch import load_file

import grpo
from grpo.scoring.groups import Reward

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLE = REPOSITORY / "examples" / "minimal.py"


def test_the_example_is_the_trainer_bit_for_bit(tmp_path, capsys):
    """Two updates a rollout, a KL to the reference."""
    spec = importlib.util.spec_from_file_location("minimal", EXAMPLE)
    minimal = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(minimal)
    minimal.make_model(tmp_path / "start")
    config = minimal.settings(tmp_path, steps=12)
    assert config.updates_per_rollout == 2
    assert config.loss.beta > 0
    minimal.learn(config, [Reward("digits", minimal.digits)]).save(tmp_path / "minimal")
    rewards = [float(value) for value in re.findall(r"reward ([\d.]+)", capsys.readouterr().out)]
    result = grpo.train(config, rewards=[minimal.digits], dataset=minimal.ROWS)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "minimal", result.model))
    start = load_file(tmp_path / "start" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not any(torch.equal(ours[name], start[name]) for name in ours)
    assert len(rewards) == 6
    assert rewards[-1] > rewards[0] + 0.05


def test_the_readme_shows_its_loop_verbatim():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```python\n(.*?)```", readme, re.S) if "split_updates" in block]
    assert len(blocks) == 1
    assert blocks[0] in textwrap.dedent(EXAMPLE.read_text(encoding="utf-8")) or (
        textwrap.indent(blocks[0], "    ") in EXAMPLE.read_text(encoding="utf-8")
    )


def test_the_example_fits_two_screens():
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 90
