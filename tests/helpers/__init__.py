"""What tests share: made worlds, checks against loops, and the program under faults."""
