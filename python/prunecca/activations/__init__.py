"""From a loader to activations, one batch at a time."""
