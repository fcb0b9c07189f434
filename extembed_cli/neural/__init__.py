"""Technique 3: a trained model that reads the history and scores a candidate. Needs the extra `[neural]`."""
