"""Generated code of the contract in `proto/runlease/v1`; written by `make proto`."""
