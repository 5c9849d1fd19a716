"""Sealed folders, what they hold, and how a run goes on from one exactly."""
