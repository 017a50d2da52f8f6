"""What `runlease doctor` looks at on the client's side; the coordinator's package has the store's side."""
