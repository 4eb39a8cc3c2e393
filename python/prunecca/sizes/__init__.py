"""Representations whose sizes differ: more channels than datapoints, other resolutions, or too many of everything."""
