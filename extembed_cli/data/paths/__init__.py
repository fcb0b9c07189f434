"""From the path of an input to its files: directories, globs, partitions, tables of Delta Lake and Iceberg, objects."""
