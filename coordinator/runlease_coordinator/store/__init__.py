"""Typed calls over the store's scripts: one Lua file an operation, keys in `keys` and nowhere else."""
