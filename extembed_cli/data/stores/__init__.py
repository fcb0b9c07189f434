"""Object stores: their file systems, and local copies of objects."""
