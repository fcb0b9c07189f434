"""The values of a column in one form, whatever their type: ids, times, vectors, expressions."""
