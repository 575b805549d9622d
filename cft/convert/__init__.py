"""Checkpoints of other projects -> model folders to use or start from; a file for each source."""
