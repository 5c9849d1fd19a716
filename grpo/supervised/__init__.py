"""SFT and reward models, on TRL's trainers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grpo.config.engine import RuntimeConfig
from grpo.config.training import SFTConfig


@dataclass(frozen=True)
class Training:
    """What every supervised training is told."""

    config: SFTConfig
    out: Path  # for model/, metrics.jsonl, checkpoints/ and data/
    seed: int
    runtime: RuntimeConfig
    title: str  # on the console and in messages
    accept_changes: bool = False  # go on from a checkpoint that was made with other rows
