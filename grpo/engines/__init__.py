"""pi_gen: the embedded engine, vLLM, and which one samples."""
