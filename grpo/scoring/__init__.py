"""Reward functions called, what fails isolated, what a reward becomes on the way to the loss."""
