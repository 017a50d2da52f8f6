"""Reads of a run's history: decode the log, apply the visibility rule."""
