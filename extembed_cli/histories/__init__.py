"""Events and candidates by owner, the events that each candidate sees, and batches of both."""
