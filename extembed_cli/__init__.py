"""Point-in-time ranker features from external item embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from extembed_cli.data.outputs.feature_columns import FeatureColumn

__version__ = "0.1.0"
__all__ = ["__version__", "feature_columns"]


def feature_columns(path: str | os.PathLike[str], techniques: Iterable[str] | None = None) -> list[FeatureColumn]:
    """Return the feature columns of an output of `extembed run`, in the order of the file.

        >>> names = [column.name for column in feature_columns("features.parquet")]
        >>> counters = feature_columns("features.parquet", ["counters"])

    `path` is a file, a glob or a directory of parts. `techniques` selects columns: `counters`, `aggregate`, `dual`,
    `neural`; all by default. Columns that earlier runs wrote into the same file come first. The columns of your
    candidates, which pass through, are none.

    A column has `name`, `dtype`, `technique`, `meaning` (its formula), `owner` (whose history it is of: `user`, `item`
    or `all`), and of a model `trained_until` and `out_of_time`.

    Raises `extembed_cli.errors.InputError` if the file cannot be read or has lost its metadata, and `SpecError` for a
    technique that it has no columns of. Both are an `ExtembedError`.
    """
    from extembed_cli.data.outputs.feature_columns import feature_columns as read  # noqa: PLC0415  loads pyarrow

    return read(path, techniques)
