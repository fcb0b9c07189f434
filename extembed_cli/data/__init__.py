"""Parquet inputs read into checked arrays, and columns written back to Parquet."""
