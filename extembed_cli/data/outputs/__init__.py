"""What a job writes: features in one file or in parts, locally or in a store."""
