"""The techniques, and the two functions that every engine calls: `prepare` and `compute_shard`."""
