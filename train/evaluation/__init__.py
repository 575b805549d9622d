"""Scores and labels -> figures, plots and a report."""
