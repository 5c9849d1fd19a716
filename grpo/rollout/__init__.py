"""Which prompts, sampled and judged; one step ahead."""
