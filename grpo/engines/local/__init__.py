"""The embedded engine: continuous batching over the model's own weights."""
