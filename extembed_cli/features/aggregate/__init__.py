"""Technique 1: statistics of the cosines between a candidate and the user's history."""
