"""The recipe: one file a stage, the pipeline around them, and the command line."""
