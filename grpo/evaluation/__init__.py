"""pass@k with intervals, of a model here or of a served one."""
