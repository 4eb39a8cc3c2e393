"""Similarity of representations: functions of a covariance, one file per family of metrics."""
