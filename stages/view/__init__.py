"""`grpo view`: the rollouts of a run in the terminal, and a page with its curves, table and samples."""
