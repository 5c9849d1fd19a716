"""`grpo check`: what can be wrong before compute is spent."""
