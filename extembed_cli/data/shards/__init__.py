"""Shards of users or items, and arrays in scratch files."""
