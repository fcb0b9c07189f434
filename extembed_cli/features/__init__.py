"""One file per technique: spec -> column names; batch -> columns."""
