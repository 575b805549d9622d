"""Checkpoints of other projects -> model folders to use or to start from; a file for each source."""
