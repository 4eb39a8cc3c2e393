"""Ours beside the usual ways, timed in turns."""
