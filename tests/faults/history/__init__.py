"""What clients did and saw while faults were injected, and whether the invariants of the design hold over it."""
