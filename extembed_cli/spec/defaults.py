"""Measured defaults (docs/decisions/) and choices, in a module of their own so that `--help` loads nothing else."""

from typing import Literal

REGULARIZATION = 2.0
UNOBSERVED_WEIGHT = 0.0

Encoder = Literal["mean", "gru", "attention", "transformer"]
ENCODER: Encoder = "gru"
Loss = Literal["bce", "softmax"]

ImportFormat = Literal[
    "npy", "npz", "safetensors", "faiss", "word2vec-binary", "word2vec-text", "glove", "csv", "tsv", "jsonl"
]
IdKind = Literal["text", "integer"]
