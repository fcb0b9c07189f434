"""Technique 2: a linear model for each owner over the fixed partner vectors."""
