"""Write the files of this folder with the libraries themselves: `pip install gensim faiss-cpu pandas`, then run it.

The files beside it are those of gensim 4.4.0, faiss-cpu 1.15.1 and pandas 3.1.1; faiss-cpu 1.7.4 writes the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pandas as pd
from gensim.models import KeyedVectors

HERE = Path(__file__).parent
VECTORS = ((np.arange(12) - 5) / 8).astype(np.float32).reshape(4, 3)
WORDS = ["the", "café", "item-1", "4"]
NUMBERS = np.array([10, 20, 30, 2**40])

words = KeyedVectors(3)
words.add_vectors(WORDS, VECTORS)
words.save_word2vec_format(HERE / "gensim.bin", binary=True)
words.save_word2vec_format(HERE / "gensim.vec")
words.save_word2vec_format(HERE / "gensim_without_sizes.txt", write_header=False)

for name, kind in {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT, "l1": faiss.METRIC_L1}.items():
    index = faiss.IndexFlat(3, kind)
    if name == "ip":
        index = faiss.IndexFlatIP(3)
    if name == "l2":
        index = faiss.IndexFlatL2(3)
    index.add(VECTORS)
    faiss.write_index(index, str(HERE / f"flat_{name}.faiss"))
for name, kind in {"map": faiss.IndexIDMap, "map2": faiss.IndexIDMap2}.items():
    index = kind(faiss.IndexFlatIP(3))
    index.add_with_ids(VECTORS, NUMBERS)
    faiss.write_index(index, str(HERE / f"{name}.faiss"))
index = faiss.IndexHNSWFlat(3, 4)
index.add(VECTORS)
faiss.write_index(index, str(HERE / "graph.faiss"))

frame = pd.DataFrame(VECTORS, index=WORDS)
frame.to_csv(HERE / "pandas.csv")
lists = pd.DataFrame({"item_id": WORDS, "embedding": list(VECTORS)})
lists.to_csv(HERE / "pandas_lists.csv")
lists.to_json(HERE / "pandas.jsonl", orient="records", lines=True)
