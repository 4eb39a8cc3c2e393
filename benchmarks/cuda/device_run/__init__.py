"""The first run on a device: its stages, each of which can be called alone."""
