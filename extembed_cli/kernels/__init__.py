"""The feature maths: numpy arrays in, numpy arrays out."""
