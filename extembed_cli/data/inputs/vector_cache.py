"""A cache of embedding tables as matrices, so that later runs need not read the tables: `--cache DIR`.

An entry is a folder named by a digest of the matrix's inputs: the content of the table's files and the options. It gets
its name when it is complete and is never written to again, so runs can share a cache. A run compares checksums before
using an entry, and replaces it if they differ. A note, named by the table's paths, has the state of the files (inode,
size, times of change) and their digest: unchanged files are not read again for their digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import extembed_cli
from extembed_cli.arrays import Floats
from extembed_cli.data.files.commit import replace_bytes
from extembed_cli.data.files.parquet import Table
from extembed_cli.data.inputs.embeddings import TableIds, load_vectors
from extembed_cli.data.inputs.frozen import frozen_digest
from extembed_cli.data.shards import ipc
from extembed_cli.data.shards.matrices import TableVectors
from extembed_cli.data.shards.scratch import make_folder
from extembed_cli.json_files import read_json
from extembed_cli.spec.model import Spec
from extembed_cli.system.threads import Mapping

_DAY = 86_400
_BLOCK = 2**22  # bytes read at a time
_ENTRY = "[0-9a-f]{32}"
"""Pattern of the names of entries"""
_IDS, _VECTORS, _ABOUT = "ids.arrow", "vectors.f32", "about.json"


class VectorCache:
    """The tables of one job in a cache folder."""

    def __init__(self, folder: Path, spec: Spec, tables: dict[str, Table], centers: dict[str, list[bool]]) -> None:
        self.folder = folder
        self.spec = spec
        self.tables = tables
        self.centers = centers
        """For each table whether its matrices are centred."""
        make_folder(folder, "matrices", "--cache")
        for leftover in folder.glob(".new-*"):  # of a killed run; no table takes a day to read
            with suppress(FileNotFoundError):  # or of a run that has just finished
                if time.time() - leftover.stat().st_mtime > _DAY:
                    shutil.rmtree(leftover, ignore_errors=True)
        self.digests = {name: self._digest(table) for name, table in tables.items()}
        """The digest of each table's content, as in the run report."""
        self._cached = {name: entries for name in tables if (entries := self._entries(name))}

    @property
    def hits(self) -> list[str]:
        """Names of the tables that were in the cache."""
        return list(self._cached)

    def ids(self, name: str) -> TableIds | None:
        """Return the ids of a cached table, or None."""
        entries = self._cached.get(name)
        if entries is None:
            return None
        return TableIds(entries[0].ids, np.ones(len(entries[0].ids), np.bool_), entries[0].report)

    def vectors(self, name: str, ids: TableIds, mapped: Mapping) -> list[TableVectors]:
        """Return all vectors of each matrix of a table; add them to the cache if they are not in it."""
        kept = self._cached.get(name) or self._entries(name)  # an earlier read of this run may have put it there
        if kept:
            return kept
        centers = self.centers[name]
        buildings = [Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder)) for _ in centers]
        try:
            kinds = [(center, folder / _VECTORS) for center, folder in zip(centers, buildings, strict=True)]
            matrices = load_vectors(self.spec, name, self.tables[name], ids, None, kinds, mapped)
            results = [self._kept(name, *each) for each in zip(centers, buildings, matrices, strict=True)]
        finally:
            for building in buildings:
                shutil.rmtree(building, ignore_errors=True)
        note = self._note(self.tables[name])
        known = _read_note(note)
        if known:
            entries = {*known["entries"], *(self._key(name, center) for center in centers)}
            _write(note, {**known, "entries": sorted(entries)})
        return results

    def _kept(self, name: str, center: bool, building: Path, vectors: TableVectors) -> TableVectors:
        """Give a finished entry its name; return its vectors mapped from there."""
        _complete(building, vectors)
        building.chmod(0o755)
        entry = self.folder / self._key(name, center)
        if self._open(name, center) is None:  # not there, or damaged
            shutil.rmtree(entry, ignore_errors=True)
        with suppress(OSError):  # another run was faster
            building.rename(entry)
            mapped_file = np.memmap(entry / _VECTORS, np.float32, "r", shape=vectors.vectors.shape)
            vectors = replace(vectors, vectors=np.asarray(mapped_file))
        return vectors

    def _entries(self, name: str) -> list[TableVectors]:
        """Return the entries of a table; none if one is missing."""
        entries = [self._open(name, center) for center in self.centers[name]]
        return [] if None in entries else [entry for entry in entries if entry is not None]

    def _key(self, name: str, center: bool) -> str:
        table = self.spec.table(name)
        mean = frozen_digest(table.center, name) if center and isinstance(table.center, str) else center
        options = table.model_dump(include={"bad_vectors", "duplicates", "bytes_of"}) | {"center": mean}
        columns = [self.spec.id_column(name), self.spec.vector_column(name)]
        parts = [self.digests[name], options, columns, extembed_cli.__version__, np.__version__]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def _open(self, name: str, center: bool) -> TableVectors | None:
        folder = self.folder / self._key(name, center)
        about = read_json(folder / _ABOUT)
        if about is None or about.get("checksums") != _checksums(folder):
            return None
        try:
            table = ipc.map_table(folder / _IDS)
            table.validate(full=True)
            rows, dim = about["shape"]
            vectors: Floats = np.asarray(np.memmap(folder / _VECTORS, np.float32, "r")).reshape(rows, dim)
            norms = np.append(ipc.whole(table["norm"]).to_numpy(), 0)
            ids, report = ipc.from_arrow(table.select(["id"]))["id"], dict(about["report"])
        # Another run has just removed it, because the table changed; or it is not what a run has written.
        except (OSError, ValueError, TypeError, KeyError, OverflowError, pa.ArrowException):
            return None
        return TableVectors(ids, vectors, norms, report) if len(norms) == len(vectors) else None

    def _digest(self, table: Table) -> dict[str, Any]:
        """Return the digest of a table's content: from the note, or else by reading the files.

        Entries of the files' earlier content are removed; a run that has one mapped can still read it.
        """
        states = [[*part.state, part.path.stat().st_ctime_ns] for part in table.parts]
        note = self._note(table)
        known = _read_note(note)
        if known.get("states") == states:
            digest: dict[str, Any] = known["digest"]
            return digest
        digest = table.digest_now()
        table.check_unchanged()
        entries = known.get("entries", [])
        if known.get("digest") != digest:
            for entry in entries:
                shutil.rmtree(self.folder / entry, ignore_errors=True)
            entries = []
        _write(note, {"states": states, "digest": digest, "entries": entries})
        return digest

    def _note(self, table: Table) -> Path:
        paths = json.dumps([str(Path(part.name).absolute()) for part in table.parts])
        return self.folder / f"{hashlib.sha256(paths.encode()).hexdigest()[:16]}.json"


def _complete(folder: Path, vectors: TableVectors) -> None:
    """Write the other files of an entry, whose vectors are there, and sync all of it to the disk."""
    table = ipc.to_arrow(vectors.ids.to_frame("id")).append_column("norm", pa.array(vectors.norms[:-1]))
    ipc.write_table(folder / _IDS, table)
    about = {"shape": list(vectors.vectors.shape), "report": vectors.report, "checksums": _checksums(folder)}
    _write(folder / _ABOUT, about)
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _checksums(folder: Path) -> dict[str, int]:
    """Return the CRC-32 of each file of an entry that can be read."""
    checksums = {}
    for name in (_IDS, _VECTORS):
        with suppress(OSError), (folder / name).open("rb") as file:
            checksum = 0
            while block := file.read(_BLOCK):
                checksum = zlib.crc32(block, checksum)
            checksums[name] = checksum
    return checksums


def _write(path: Path, data: dict[str, Any]) -> None:
    replace_bytes(path, json.dumps(data).encode())


def _read_note(path: Path) -> dict[str, Any]:
    """Return what a note says; empty where there is none, or it is not as a run writes it.

    Its entries are names of folders that may be removed, so no other name may be among them.
    """
    note = read_json(path) or {}
    whole = note.keys() == {"states", "digest", "entries"} and isinstance(note["digest"], dict)
    if not whole or note["digest"].keys() != {"files", "rows", "bytes", "sha256"}:
        return {}
    own = isinstance(note["entries"], list) and all(re.fullmatch(_ENTRY, str(entry)) for entry in note["entries"])
    return note if own else {}
