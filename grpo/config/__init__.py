"""Every setting: sections, the algorithm's choices, the YAML file they come from, and what does nothing in a run."""

from grpo.config.sections import TrainConfig

__all__ = ["TrainConfig"]
