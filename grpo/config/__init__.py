"""Every typed setting of the core, strict and frozen: an unknown key is an error that names its path.

A function takes its own section, never the whole. `grpo.config.file` reads any of these models from YAML;
`stages.recipe.config` composes them into the file that `grpo run` reads.
"""

from grpo.config.training import TrainConfig

__all__ = ["TrainConfig"]
