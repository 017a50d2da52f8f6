"""runlease."""
