"""Faults under load: what was acknowledged is there, once and in order. See README.md in this folder."""
