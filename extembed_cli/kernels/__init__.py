"""The feature maths: numpy arrays in, numpy arrays out. Shapes: B tiles, C candidates, H events, d dimensions."""
