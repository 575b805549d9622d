"""Model folder -> findings: reading, checking, fetching and running models."""
