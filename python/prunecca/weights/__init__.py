"""The weights of a network: their names, and which of them may be pruned together at what rate."""
