"""Weights -> log-probs: the policy, its adapter, the reference; packing, attention, head, sharding."""
