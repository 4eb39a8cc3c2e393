"""What is computed from a sample of the datapoints themselves, where covariances do not tell enough."""
