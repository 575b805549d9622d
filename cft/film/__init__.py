"""Bytes -> `Radiograph`: every format, and every limit on what a user may hand in."""
