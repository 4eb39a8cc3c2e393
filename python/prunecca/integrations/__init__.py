"""Pruning inside the trainers of other libraries. Each module needs its library, and is imported by those who have it."""
