"""Technique 2: a linear model for each user over the fixed item vectors."""
