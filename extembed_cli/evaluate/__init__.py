"""What features bring to a ranker: the ladder, its controls, and a report of both."""
