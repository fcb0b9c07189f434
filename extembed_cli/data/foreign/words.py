"""Word vectors as text: a line has an id and its numbers. word2vec and fastText write a line with the sizes first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow.compute as pc

from extembed_cli.data.foreign.batches import Batch, from_batches
from extembed_cli.data.foreign.lines import as_text, first_line, lines
from extembed_cli.data.foreign.source import MAX_DIM, Choices, VectorFile, damaged, opened, reading

_SIZES = re.compile(rb"\s*(\d{1,18})\s+(\d{1,18})\s*")
_ENDS_IN_A_NUMBER = r"\s[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"
"""In an id: then the line has one number too many"""


def sizes(line: bytes) -> tuple[int, int] | None:
    """Return the number and the length of the vectors that word2vec's first line says; None for another line."""
    match = _SIZES.fullmatch(line)
    return (int(match[1]), int(match[2])) if match else None


def read_sizes(path: Path, kind: str) -> tuple[int, int]:
    """Return the sizes of a file of word2vec."""
    with reading(path, kind), opened(path) as file:
        said = sizes(first_line(file))
        if said is None:
            raise ValueError("its first line is not the number and the length of the vectors")
        if not 0 < said[1] <= MAX_DIM:
            raise ValueError(f"its first line says vectors of {said[1]:,} numbers")
    return said


def check_rows(path: Path, kind: str, said: int, file: VectorFile) -> VectorFile:
    """Return the file; raise if it has not as many vectors as its first line says."""
    if file.rows != said:
        raise damaged(path, kind, f"its first line says {said:,} vectors, and it has {file.rows:,}")
    return file


def read_word2vec_text(path: Path, choices: Choices) -> VectorFile:
    """Return the vectors of a text file of word2vec, fastText or gensim."""
    rows, dim = read_sizes(path, "word2vec-text")
    file = from_batches(path, "word2vec-text", partial(_batches, path, dim, has_sizes=True))
    return check_rows(path, "word2vec-text", rows, file)


def read_glove(path: Path, choices: Choices) -> VectorFile:
    """Return the vectors of a text file of GloVe."""
    with reading(path, "glove"), opened(path) as file:
        dim = numbers_at_end(first_line(file))
        if not 0 < dim <= MAX_DIM:
            raise ValueError("its first line is not an id and numbers")
    return from_batches(path, "glove", partial(_batches, path, dim, has_sizes=False))


def numbers_at_end(line: bytes) -> int:
    """Return how many numbers follow the id of a line; an id may have spaces, or be a number."""
    parts, count = line.split()[1:], 0
    while count < len(parts) and is_number(parts[-1 - count]):
        count += 1
    return count


def is_number(text: bytes | str) -> bool:
    """Whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _batches(path: Path, dim: int, has_sizes: bool) -> Iterator[Batch]:
    with opened(path) as file:
        if has_sizes:
            first_line(file)
        for some in lines(file):
            text = pc.ascii_trim_whitespace(as_text(some))
            parts = pc.ascii_split_whitespace(text, max_splits=dim, reverse=True)
            ids = pc.list_element(parts, 0)
            long = pc.index(pc.match_substring_regex(ids, _ENDS_IN_A_NUMBER), True).as_py()
            if long >= 0:
                raise ValueError(f"the line `{ids[long]} ...` has more than {dim:,} numbers")
            yield Batch(ids, pc.list_slice(parts, 1))
