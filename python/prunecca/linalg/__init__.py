"""Decompositions of many float64 matrices at once; where they are computed is decided here only."""
