"""Arrays in mapped files: an array that is already in a file is linked, and never written through the link."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from extembed_cli.data.shards.mapped_arrays import ArrayFolder, zeros


@pytest.mark.parametrize("relative", [False, True])
def test_an_array_that_is_already_in_the_folder_is_not_copied(
    tmp_path: Path, relative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("shared") if relative else tmp_path / "shared"
    folder.mkdir()
    array = zeros((5, 3), np.float32, folder / "vectors")
    array[:] = 7
    before = (folder / "vectors").stat().st_ino
    about = ArrayFolder(folder).put("vectors", array)
    assert (folder / "vectors").stat().st_ino == before
    assert ArrayFolder(folder).get(about).tolist() == array.tolist()


def test_a_folder_behind_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    array = zeros((4,), np.int64, tmp_path / "link" / "numbers")
    array[:] = 3
    arrays = ArrayFolder(tmp_path / "link")
    assert arrays.get(arrays.put("numbers", array)).tolist() == [3] * 4


def test_a_linked_file_is_not_written_to(tmp_path: Path) -> None:
    """Cache files are linked into scratch folders. A later run that writes its own array must not change them."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "scratch").mkdir()
    cached = zeros((6,), np.float64, tmp_path / "cache" / "vectors")
    cached[:] = 5
    arrays = ArrayFolder(tmp_path / "scratch")
    arrays.put("vectors", cached)
    assert (tmp_path / "cache" / "vectors").stat().st_nlink == 2
    zeros((3,), np.float64, tmp_path / "scratch" / "vectors")[:] = 1
    arrays.put("vectors", np.ones(2))
    assert np.fromfile(tmp_path / "cache" / "vectors").tolist() == [5.0] * 6


def test_views_of_a_file_are_copied(tmp_path: Path) -> None:
    array = zeros((4, 4), np.float32, tmp_path / "all")
    array[:] = np.arange(16).reshape(4, 4)
    arrays = ArrayFolder(tmp_path)
    for name, view in {"reversed": array[::-1], "transposed": array.T, "some": array[1:]}.items():
        assert np.array_equal(arrays.get(arrays.put(name, view)), view)
        assert (tmp_path / name).stat().st_ino != (tmp_path / "all").stat().st_ino
