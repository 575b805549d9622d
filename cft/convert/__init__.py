"""Checkpoints of other projects -> model folders to start training from; a file for each source."""
