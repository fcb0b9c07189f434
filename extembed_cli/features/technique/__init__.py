"""The protocol of a technique, and output columns."""
