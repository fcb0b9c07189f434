"""From Parquet to checked arrays, and from columns back to Parquet."""
