"""The inputs of a job: interactions, candidates and tables of vectors, as shards and matrices."""
