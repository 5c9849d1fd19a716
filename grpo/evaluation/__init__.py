"""pass@k with intervals."""
