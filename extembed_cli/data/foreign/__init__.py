"""Files of vectors that other tools write: arrays, word vectors, tables as text, indexes. No pickle is ever loaded."""
