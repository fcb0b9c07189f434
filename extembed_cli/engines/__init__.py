"""Where shards run. No maths here: an engine calls `compute_shard`."""
