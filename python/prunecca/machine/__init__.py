"""What was built, what this machine has, and what it can do."""
