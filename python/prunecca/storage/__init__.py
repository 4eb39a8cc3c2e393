"""Files, and nothing about networks."""
