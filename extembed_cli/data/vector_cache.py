"""Embedding tables kept as matrices, so that the next run need not read them: `--cache DIR`.

An entry is a folder named by a digest of what the matrix is made of: the content of the table's files and the options.
It gets its name when it is complete and is never written to again, so runs can share a cache; whoever opens it compares
checksums first, and makes it again where they differ. A note by the table's paths says which state of the files (inode,
size, times of change) had which content: files that have not changed are not read to know their digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import extembed_cli
from extembed_cli.arrays import Floats
from extembed_cli.data import ipc
from extembed_cli.data.embeddings import TableIds, TableVectors, load_vectors
from extembed_cli.data.parquet import Table
from extembed_cli.data.scratch import make_folder
from extembed_cli.spec.model import Spec
from extembed_cli.system.threads import Mapping

_DAY = 86_400
_BLOCK = 2**22  # bytes read at a time
_IDS, _VECTORS, _ABOUT = "ids.arrow", "vectors.f32", "about.json"


class VectorCache:
    """The tables of one job in a cache folder."""

    def __init__(self, folder: Path, spec: Spec, tables: dict[str, Table]) -> None:
        self.folder = folder
        self.spec = spec
        self.tables = tables
        make_folder(folder, "matrices", "--cache")
        for leftover in folder.glob(".new-*"):  # of a run that was killed; no table takes a day to read
            with suppress(FileNotFoundError):  # or of one that has just finished
                if time.time() - leftover.stat().st_mtime > _DAY:
                    shutil.rmtree(leftover, ignore_errors=True)
        self.digests = {name: self._digest(table) for name, table in tables.items()}
        """What the run report says of the content of each table."""
        self._found = {name: found for name in tables if (found := self._open(name)) is not None}

    @property
    def hits(self) -> list[str]:
        """The tables that were there."""
        return list(self._found)

    def ids(self, name: str) -> TableIds | None:
        """The ids of a table that is there."""
        found = self._found.get(name)
        return None if found is None else TableIds(found.ids, np.ones(len(found.ids), np.bool_), found.report)

    def vectors(self, name: str, ids: TableIds, mapped: Mapping) -> TableVectors:
        """All vectors of a table, put into the cache where they are not there yet."""
        if name in self._found:
            return self._found[name]
        building = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
        try:
            made = load_vectors(self.spec, name, self.tables[name], ids, None, mapped, building / _VECTORS)
            _complete(building, made)
            building.chmod(0o755)
            entry = self.folder / self._key(name)
            if self._open(name) is None:  # there, but not whole
                shutil.rmtree(entry, ignore_errors=True)
            with suppress(OSError):  # another run was faster
                building.rename(entry)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        note = self._note(self.tables[name])
        known = _read(note)
        if known is not None:
            entries = {*known["entries"], self._key(name)}
            _write(note, {**known, "entries": sorted(entries)})
        return made

    def _key(self, name: str) -> str:
        options = self.spec.embeddings[name].model_dump(include={"center", "bad_vectors", "duplicates"})
        columns = [self.spec.embedding_column(name, role) for role in ("item", "embedding")]
        made_of = [self.digests[name], options, columns, extembed_cli.__version__, np.__version__]
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]

    def _open(self, name: str) -> TableVectors | None:
        folder = self.folder / self._key(name)
        about = _read(folder / _ABOUT)
        if about is None or about.get("checksums") != _checksums(folder):
            return None
        try:
            table = ipc.map_table(folder / _IDS)
            mapped = np.memmap(folder / _VECTORS, np.float32, "r", shape=tuple(about["shape"]))
        except OSError:  # another run has just removed it, with what its files held before
            return None
        vectors: Floats = np.asarray(mapped)
        norms = np.append(ipc.whole(table["norm"]).to_numpy(), 0)
        return TableVectors(ipc.from_arrow(table.select(["id"]))["id"], vectors, norms, about["report"])

    def _digest(self, table: Table) -> dict[str, Any]:
        """The digest of a table's content: as noted, or else by reading it.

        Entries of what the files held before are removed; a run that has one mapped keeps it.
        """
        states = [[*part.state, part.path.stat().st_ctime_ns] for part in table.parts]
        note = self._note(table)
        known = _read(note) or {}
        if known.get("states") == states:
            digest: dict[str, Any] = known["digest"]
            return digest
        digest = table.digest(threading.Event())
        table.check_unchanged()
        entries = known.get("entries", [])
        if known.get("digest") != digest:
            for entry in entries:
                shutil.rmtree(self.folder / entry, ignore_errors=True)
            entries = []
        _write(note, {"states": states, "digest": digest, "entries": entries})
        return digest

    def _note(self, table: Table) -> Path:
        paths = json.dumps([str(part.path.absolute()) for part in table.parts])
        return self.folder / f"{hashlib.sha256(paths.encode()).hexdigest()[:16]}.json"


def _complete(folder: Path, made: TableVectors) -> None:
    """Write what else belongs to an entry beside its vectors, and bring all of it to the disk."""
    table = ipc.to_arrow(made.ids.to_frame("id")).append_column("norm", pa.array(made.norms[:-1]))
    ipc.write_table(folder / _IDS, table)
    about = {"shape": list(made.vectors.shape), "report": made.report, "checksums": _checksums(folder)}
    _write(folder / _ABOUT, about)
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of the files of an entry, of those that can be read."""
    found = {}
    for name in (_IDS, _VECTORS):
        with suppress(OSError), (folder / name).open("rb") as file:
            checksum = 0
            while block := file.read(_BLOCK):
                checksum = zlib.crc32(block, checksum)
            found[name] = checksum
    return found


def _write(path: Path, data: dict[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(data), encoding="utf-8")
    temporary.replace(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data
