"""Services for a run: threads, memory, signals and progress."""
