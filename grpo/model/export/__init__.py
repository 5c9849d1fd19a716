"""The trained model as others read it, with everything that came with it."""
