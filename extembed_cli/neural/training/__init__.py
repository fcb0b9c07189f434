"""Train a neural model: its dataset, training loop, checkpoints and folder."""
