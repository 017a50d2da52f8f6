"""Many processes with the real SDK, real stores, and random faults: see `python -m tests.faults.chaos --help`."""
