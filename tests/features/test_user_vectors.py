"""The file of user vectors has a vector per user. Its product with an item vector is the score as of one time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import World, run_spec, timestamps, vectors
from helpers.aggregate_loop import micros
from helpers.dual_loop import LIKED, RATING
from helpers.reference import Event, ReferenceHistory
from helpers.reference_dual import ReferenceFit
from helpers.user_vectors import HOUR, TEXT, check, compute_user_vectors, matrix, newest, run, vectors_only_spec

import extembed_cli

pytestmark = pytest.mark.usefixtures("engine")


def test_users_without_a_visible_vector_are_left_out(world: World) -> None:
    """Item 39 has no vector, rating 3 has no target, and user 5 has no event before the as-of time."""
    hours = [1, 1, 1, 2, 3, 5]
    world.write(
        "interactions",
        {
            "user_id": [1, 2, 3, 3, 4, 5],
            "item_id": [7, 39, 7, 39, 8, 8],
            "timestamp": timestamps(np.array(hours) * HOUR),
            "rating": [4, 4, 3, 4, 5, 5],
        },
    )
    users = compute_user_vectors(world, 'target = "CASE WHEN rating <> 3 THEN 1 END"', top='as_of = "1970-01-01T05:00"')
    assert users["user_id"].to_pylist() == [1, 4]


def test_a_user_with_a_zero_vector_is_written(world: World) -> None:
    """Unlike a user without a usable event."""
    users = compute_user_vectors(world, 'target = "0"')
    assert users.num_rows == 30
    assert not matrix(users).any()


def test_null_users_items_times_and_weights(world: World) -> None:
    table = world.table("interactions").to_pydict()
    for row, column in enumerate(["user_id", "item_id", "timestamp", "rating"] * 5):
        table[column][row] = None
    world.write("interactions", table)
    rows = [r for r in world.table("interactions").to_pylist() if None not in r.values()]
    events = [Event(r["user_id"], r["item_id"], micros(r["timestamp"]), r["rating"]) for r in rows]
    users = compute_user_vectors(world, top='weight = "rating"')
    check(world, users, ReferenceFit(), as_of=max(e.time for e in events) + 1, events=events)
    assert users["user_id"].null_count == 0


def test_user_vectors_do_not_depend_on_the_candidates(world: World) -> None:
    """Users of the log without candidates are written, and users without events are not."""
    without = compute_user_vectors(world, "bias = true")
    some = world.table("candidates").filter(
        pa.array([u in {3, 7, 31, 32} for u in world.table("candidates")["user_id"].to_pylist()])
    )
    keys = '[[dual]]\nbias = true\nuser_vectors = "users.parquet"\n'
    for candidates in (some, world.table("candidates"), world.table("candidates").slice(0, 0)):
        world.write("candidates", candidates)
        frame = run_spec(world.spec(keys))
        assert len(frame) == len(candidates)
        assert world.table("users").equals(without)


def test_as_of_gives_the_same_vectors_with_and_without_candidates(world: World) -> None:
    top = 'as_of = "2023-12-20 06:00"'
    expected = compute_user_vectors(world, top=top)
    run_spec(world.spec(f'{top}\n[[dual]]\nuser_vectors = "users.parquet"\n'))
    assert world.table("users").equals(expected)


def test_the_vectors_do_not_depend_on_the_order_of_the_log_or_on_the_workers(world: World) -> None:
    first = compute_user_vectors(world, 'target = "rating - 3"\nhalf_life = "9d"')
    whole = (world.folder / "users.parquet").read_bytes()
    run(vectors_only_spec(world, 'target = "rating - 3"\nhalf_life = "9d"'), workers=1)
    assert (world.folder / "users.parquet").read_bytes() == whole
    world.write("interactions", world.table("interactions").take(np.random.default_rng(1).permutation(600)))
    assert compute_user_vectors(world, 'target = "rating - 3"\nhalf_life = "9d"').equals(first)


def test_more_users_than_one_batch_holds_are_written(world: World) -> None:
    users = np.random.default_rng(2).permutation(20_000)
    times = timestamps(np.arange(20_000) * HOUR)
    world.write("interactions", {"user_id": users, "item_id": users % 40, "timestamp": times})
    table = compute_user_vectors(world, "unobserved_weight = 0.1\nbias = true")
    expected = np.flatnonzero(np.arange(20_000) % 40 < 35)
    assert table["user_id"].to_pylist() == expected.tolist()
    rows = np.column_stack([matrix(table), table["bias"]])
    assert (rows == rows[expected % 40]).all()  # the first 35 users have one event each, on different items


@pytest.mark.parametrize("rows", [0, 4])
def test_a_log_without_a_usable_interaction_gives_no_users(world: World, rows: int) -> None:
    table = world.table("interactions").slice(0, rows)
    world.write("interactions", table.set_column(0, "user_id", pa.nulls(rows, pa.int64())))
    report = run(vectors_only_spec(world, "bias = true", "require.allow_empty = true\n"))
    users = world.table("users")
    assert users.num_rows == 0
    assert users.schema.names == ["user_id", "embedding", "bias"]
    assert users.schema.field("embedding").type == pa.list_(pa.float32(), 8)
    assert any("no interaction can be used" in warning for warning in report["warnings"])


def test_columns_of_the_file(world: World) -> None:
    assert compute_user_vectors(world).schema.remove_metadata() == pa.schema(
        {"user_id": pa.int64(), "embedding": pa.list_(pa.float32(), 8)}
    )
    assert compute_user_vectors(world, "bias = true").schema.remove_metadata() == pa.schema(
        {"user_id": pa.int64(), "embedding": pa.list_(pa.float32(), 8), "bias": pa.float32()}
    )


def test_the_user_column_is_user_id_whatever_its_name_in_the_log(world: World) -> None:
    expected = compute_user_vectors(world)
    world.write("interactions", world.table("interactions").rename_columns(["who", "item_id", "timestamp", "rating"]))
    assert compute_user_vectors(world, top='columns.interactions.user = "who"').equals(expected)


def test_several_groups_write_a_file_each(world: World) -> None:
    rng = np.random.default_rng(9)
    world.write("image", {"item_id": np.arange(40), "embedding": vectors(rng.standard_normal((40, 3)))})
    top = '[histories.liked]\nwhere = "rating >= 4"\n[histories.some]\nmax_events = 4'
    tables = TEXT + '[embeddings.image]\npath = "image.parquet"\n'
    groups = {
        "one": ('embeddings = ["text"]\nhistories = ["liked"]', ReferenceFit(), LIKED, "text"),
        "two": (
            'embeddings = ["image"]\nhistories = ["all"]\nbias = true\nunobserved_weight = 0.5\nname = "b"',
            ReferenceFit(2.0, 0.5, bias=True), ReferenceHistory(), "image",
        ),
        "deep/three": (
            'embeddings = ["text"]\nhistories = ["some"]\nloss = "logistic"\ntarget = "rating - 3"\nname = "c"',
            ReferenceFit(loss="logistic", target=RATING), ReferenceHistory(max_events=4), "text",
        ),
    }  # fmt: skip
    dual = "".join(f'[[dual]]\nuser_vectors = "{path}.parquet"\n{keys}\n' for path, (keys, *_) in groups.items())
    report = run(world.spec(f'interactions = "interactions.parquet"\n{tables}{top}\n{dual}'))
    assert [Path(f["path"]).stem for f in report["user_vectors"]] == ["one", "two", "three"]
    for path in ("one", "deep/three"):
        _, fit, history, _ = groups[path]
        check(world, world.table(path), fit, history=history)
    world.write("text", world.table("image"))
    _, fit, history, _ = groups["two"]
    check(world, world.table("two"), fit, history=history)


def test_groups_of_the_same_fit_share_it_and_write_two_files(world: World) -> None:
    spec = vectors_only_spec(world)
    spec.write_text(spec.read_text() + '[[dual]]\nuser_vectors = "again.parquet"\n')
    run(spec)
    assert world.table("again").equals(world.table("users"))


def test_groups_without_candidates_need_no_names(world: World) -> None:
    """They have no columns whose names could collide."""
    spec = vectors_only_spec(world, "regularization = 1")
    spec.write_text(spec.read_text() + '[[dual]]\nuser_vectors = "strong.parquet"\nregularization = 9\n')
    run(spec)
    check(world, world.table("strong"), ReferenceFit(9))


def test_the_file_is_an_embedding_table_and_plain_parquet(world: World) -> None:
    users = compute_user_vectors(world, "bias = true")
    frame = pl.read_parquet(world.folder / "users.parquet")
    assert frame.schema == {"user_id": pl.Int64, "embedding": pl.Array(pl.Float32, 8), "bias": pl.Float32}
    assert frame["embedding"].to_numpy().tolist() == matrix(users).tolist()
    world.write("interactions", {"user_id": [1, 1], "item_id": [3, 4], "timestamp": timestamps([HOUR, 2 * HOUR])})
    world.write("candidates", {"user_id": [1], "item_id": [5], "timestamp": timestamps([9 * HOUR])})
    text = '[embeddings.text]\npath = "users.parquet"\ncolumns.item = "user_id"\n[[aggregate]]\nhalf_lives = ["none"]\n'
    row = run_spec(world.spec(text)).row(0, named=True)
    unit = matrix(users) / np.linalg.norm(matrix(users), axis=1)[:, None]
    assert row["text__all__cos_mean"] == pytest.approx((unit[3] + unit[4]) @ unit[5] / 2, abs=1e-6)


def test_every_page_has_a_checksum(world: World) -> None:
    compute_user_vectors(world)
    path = world.folder / "users.parquet"
    content = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(0).column(1)
    content[chunk.data_page_offset + chunk.total_compressed_size - 3] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"(?i)checksum|crc"):
        pq.read_table(path, page_checksum_verification=True)


def test_metadata_says_what_the_vectors_are(world: World) -> None:
    compute_user_vectors(world, 'target = "rating - 3"\nregularization = 2.5\nbias = true', top='lag = "1h"')
    text = pq.read_schema(world.folder / "users.parquet").metadata[b"extembed"].decode()
    about = json.loads(text)
    assert about["version"] == extembed_cli.__version__
    assert about["as_of_us"] == newest(world) + 1
    assert about["spec"]["lag"] == "1h"
    assert about["spec"]["dual"][0]["regularization"] == 2.5
    assert set(about["inputs"]) == {"interactions", "embeddings"}
    assert about["inputs"]["interactions"]["rows"] == 600
    for part in ("u·x", "rating - 3", "2.5", "`all` in `text`", "constant 1"):
        assert part in about["meaning"]
    assert str(world.folder) not in text and "users.parquet" not in text


def test_without_candidates_the_report_is_beside_the_vectors(world: World) -> None:
    report = run(vectors_only_spec(world))
    assert {path.name for path in world.folder.iterdir()} == {
        *("interactions.parquet", "candidates.parquet", "text.parquet", "vectors.toml"),
        *("users.parquet", "users.parquet.run.json"),
    }
    assert report == json.loads((world.folder / "users.parquet.run.json").read_text())
    assert report["output"] is None and report["output_sha256"] is None
    (file,) = report["user_vectors"]
    assert (file["path"], file["rows"]) == (str(world.folder / "users.parquet"), 30)
    assert file["sha256"] == extembed_cli.data.files.commit.file_digest(world.folder / "users.parquet")
    assert (report["rows_in"], report["rows_out"]) == (0, 0)
    assert report["inputs"]["interactions"]["used"] == 600
    assert report["dual"]["systems"] == report["dual"]["primal_solves"] + report["dual"]["dual_solves"] == 30
    assert set(report["seconds_by_technique"]) == {"dual"}


def test_the_report_of_a_run_without_candidates_lists_no_columns(world: World) -> None:
    report = run(vectors_only_spec(world))
    assert (report["columns"], report["column_names"]) == (0, [])


def test_with_candidates_the_report_is_beside_the_features(world: World) -> None:
    report = run(world.spec('[[dual]]\nuser_vectors = "users.parquet"\n'))
    assert report == json.loads((world.folder / "out.parquet.run.json").read_text())
    assert report["user_vectors"][0]["rows"] == 30
    assert not (world.folder / "users.parquet.run.json").exists()
