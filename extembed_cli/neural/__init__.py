"""Technique 3: a trained model over the history. Needs the extra `[neural]`."""
