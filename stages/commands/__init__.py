"""The commands that `grpo` has, one module each."""
