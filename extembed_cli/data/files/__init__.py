"""Single files: Parquet read and checked, digests, footers, JSON with a checksum, writes in one step."""
