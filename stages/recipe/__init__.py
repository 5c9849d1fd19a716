"""The recipe around the stage scripts: its config, order, lineage, evaluation."""
