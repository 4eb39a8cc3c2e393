"""Whole channels: how much each is worth, and networks that are narrower without some."""
