"""An explicit-state model of the lease protocol: what a store may lose, and which rule keeps it from doing harm."""
