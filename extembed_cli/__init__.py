"""Point-in-time ranker features from external item embeddings."""

__version__ = "0.1.0"
