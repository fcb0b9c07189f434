"""Show a few rows and columns of a feature file; the last step of `make features`."""

import sys

import polars as pl

frame = pl.read_parquet(sys.argv[1])
keys = [name for name in ("user_id", "item_id", "label") if name in frame.columns]
features = [name for name in frame.columns if "__" in name]
shown = [*features[:1], *(name for name in features if name.endswith("cos_to_mean__hl7d"))][:3]
with pl.Config(tbl_rows=8, tbl_width_chars=120, fmt_str_lengths=30, tbl_hide_dataframe_shape=True):
    print(frame.select(*keys, *shown).sample(min(8, len(frame)), seed=1))
print(f"{len(frame):,} rows, {len(features)} feature columns in {sys.argv[1]}")
