"""Evaluate what the features of a file bring to a ranker, step by step, and write the report."""
