"""Specs: names, defaults, overrides, round trips, the published schema and columns."""

from __future__ import annotations

import json
import pickle
import tomllib
from pathlib import Path

import pytest
import tomli_w
from conftest import ROOT

from extembed_cli.errors import SpecError
from extembed_cli.features.registry import output_columns
from extembed_cli.spec.durations import duration_us, hundredths_label, time_us
from extembed_cli.spec.loading import build_spec, load_spec
from extembed_cli.spec.model import spec_type

MINIMAL = {
    "interactions": "i.parquet",
    "candidates": "c.parquet",
    "embeddings": {"text": {"path": "t.parquet"}},
    "aggregate": [{}],
}
FULL = {
    **MINIMAL,
    "interactions": ["a.parquet", "b.parquet"],
    "output": "o.parquet",
    "as_of": "2026-01-31T06:00:00+01:00",
    "as_of_step": "1d",
    "lag": "2h",
    "time_unit": "ms",
    "weight": "rating",
    "columns": {"user": "uid", "candidates": {"time": "at"}, "interactions": {"item": "doc"}},
    "embeddings": {
        "text": {"path": "t.parquet", "center": True, "bad_vectors": "missing", "columns": {"embedding": "v"}},
        "image": {"path": "i.parquet", "normalize": False, "duplicates": "last"},
    },
    "histories": {"liked": {"where": "rating >= 4", "window": "30d", "max_events": 10}},
    "aggregate": [
        {"half_lives": ["7d", "none"], "percentiles": [5], "thresholds": [-0.2, 0.3], "name": "short", "sd": True},
        {"embeddings": ["image"], "histories": ["all", "liked"]},
    ],
}


def write(folder: Path, data: dict[str, object]) -> Path:
    path = folder / "spec.toml"
    path.write_text(tomli_w.dumps(data))
    return path


@pytest.mark.parametrize("data", [MINIMAL, FULL])
def test_a_spec_survives_a_round_trip_through_toml(tmp_path: Path, data: dict[str, object]) -> None:
    spec = load_spec(write(tmp_path, data))
    again = build_spec(tomllib.loads(tomli_w.dumps(spec.model_dump(mode="json", exclude_none=True))), "again")
    assert again == spec


def test_specs_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        build_spec(MINIMAL, "test").lag = "1d"  # type: ignore[misc]


def test_spec_paths_start_at_the_spec_and_override_paths_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "specs").mkdir()
    (tmp_path / "here").mkdir()
    path = write(tmp_path / "specs", FULL)
    monkeypatch.chdir(tmp_path / "here")
    spec = load_spec(path, ["candidates=x.parquet", 'embeddings.image.path="/abs/y.parquet"'])
    assert spec.interactions == tuple(str(tmp_path / "specs" / name) for name in ("a.parquet", "b.parquet"))
    assert spec.candidates == str(tmp_path / "here" / "x.parquet")
    assert spec.embeddings["image"].path == "/abs/y.parquet"


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, {**MINIMAL, "lag": "3h"})
    spec = load_spec(
        path,
        [
            'aggregate.0.half_lives=["7d"]',
            "aggregate.1.thresholds=[0.5]",
            "aggregate.2.name=third",
            "embeddings.text.center=true",
            "histories.liked.where=rating >= 4",
            "lag=1h",
        ],
    )
    assert [group.half_lives for group in spec.aggregate] == [("7d",), ("30d",), ("30d",)]
    assert spec.aggregate[1].thresholds == (0.5,)
    assert spec.embeddings["text"].center
    assert spec.histories["liked"].where == "rating >= 4"
    assert spec.lag == "1h"


@pytest.mark.parametrize("override", ["lag", "=1", "aggregate.7.name=x", "aggregate.x.name=y", "lag.a=1", "a..b=1"])
def test_invalid_overrides_are_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(SpecError, match="--set"):
        load_spec(write(tmp_path, {**MINIMAL, "lag": "3h"}), [override])


def test_default_histories_are_the_named_ones_or_all() -> None:
    spec = build_spec(MINIMAL, "test")
    assert spec.histories_of(spec.aggregate[0]) == ("all",)
    named = build_spec({**MINIMAL, "histories": {"a": {}, "b": {}}}, "test")
    assert named.histories_of(named.aggregate[0]) == ("a", "b")


def test_columns_of_a_spec() -> None:
    names = [c.name for c in output_columns(build_spec(FULL, "test"))]
    assert len(names) == len(set(names))
    for expected in (
        "liked__short_count",
        "liked__short_decayed_count__hl7d",
        "liked__short_decayed_count",
        "text__liked__short_vector_count",
        "text__liked__short_cos_to_mean__hl7d",
        "image__liked__short_cos_p05",
        "image__liked__short_cos_share_ge_m020__hl7d",
        "image__all__cos_p10__hl30d",
        "all__age_last_s",
        "image__all__cos_min",
    ):
        assert expected in names
    assert not [name for name in names if name.startswith("text__all")]


@pytest.mark.parametrize(
    ("value", "label"), [(0.3, "030"), (-0.2, "m020"), (1, "100"), (0, "000"), (-0.0, "000"), (0.07, "007")]
)
def test_hundredths_labels(value: float, label: str) -> None:
    assert hundredths_label(value) == label


def test_durations_and_times() -> None:
    assert [duration_us(t) for t in ("0s", "90s", "2h", "1w")] == [0, 90_000_000, 7_200_000_000, 604_800_000_000]
    assert time_us("1970-01-02") == time_us("1970-01-02 00:00:00") == 86_400_000_000
    assert time_us("1970-01-01T01:00:00+01:00") == time_us("1970-01-01T00:00:00Z") == 0
    for wrong in ("1", "d", "1.5d", "-1d", "1 d", "01d", "1y", "9999999d"):
        with pytest.raises(ValueError, match=wrong):
            duration_us(wrong)


def test_the_published_schema_is_that_of_the_spec() -> None:
    published = json.loads((ROOT / "docs" / "reference" / "spec.schema.json").read_text())
    published.pop("$schema")
    assert published == spec_type().model_json_schema()
    # Every key has a description, which an editor shows.
    assert all("description" in p for p in published["properties"].values())


def test_the_metadata_of_a_spec_has_no_paths() -> None:
    spec = build_spec(FULL, "test")
    assert "parquet" not in json.dumps(spec.meaning())
    assert spec.meaning()["aggregate"][0]["half_lives"] == ["7d", "none"]


def test_a_spec_survives_pickling() -> None:
    """It is sent to other processes."""
    data = {
        "interactions": "i.parquet",
        "candidates": "c.parquet",
        "output": "o.parquet",
        "embeddings": {"text": {"path": "t.parquet", "center": True}},
        "histories": {"liked": {"where": "rating >= 4"}},
        "aggregate": [{"half_lives": ["7d", "none"]}],
        "dual": [{"target": "rating - 3", "histories": ["liked"]}],
    }
    spec = build_spec(data, "data")
    again = pickle.loads(pickle.dumps(spec))
    assert again == spec
    assert type(again) is type(spec)
