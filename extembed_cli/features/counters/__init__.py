"""Counters of a user's histories: they need no embeddings, and embeddings are judged over them."""
