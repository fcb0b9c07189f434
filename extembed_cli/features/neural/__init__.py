"""Technique 3: scores of a trained model that reads the history."""
