"""Events and candidates by user, the events that each candidate sees, and batches of both."""
