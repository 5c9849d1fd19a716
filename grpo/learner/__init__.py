"""One update: batches of a token budget, the gate, the step, its statistics."""
