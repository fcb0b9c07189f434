"""The maths of the features: numpy arrays in, numpy arrays out."""
