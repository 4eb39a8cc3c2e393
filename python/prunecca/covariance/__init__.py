"""The covariance of representations: its streaming state and one-pass update."""
