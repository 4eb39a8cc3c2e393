"""The report of a study: one page, its figures, and a verdict on each claim of the paper."""

from .report import Report, write

__all__ = ["Report", "write"]
