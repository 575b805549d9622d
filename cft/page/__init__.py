"""Findings -> the page: its HTML, its style."""
