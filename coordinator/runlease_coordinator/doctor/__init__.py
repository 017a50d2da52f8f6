"""`runlease doctor`, the store's side: `survey` collects what can be seen, the other modules judge it, without I/O."""
