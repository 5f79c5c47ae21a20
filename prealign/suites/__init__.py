"""Suites: the paper's tables and figures as lists of runs, trained, measured and set beside the paper's numbers."""
