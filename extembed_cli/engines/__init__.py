"""Engines run the shards of a job. They contain no maths: an engine only calls `Job.compute`."""
