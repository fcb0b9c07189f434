"""The cosine of a candidate's item with its user, where both have vectors of one space."""
