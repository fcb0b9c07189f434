"""Files that Spark has written are read, and Spark reads all columns of what becomes of them: with a real Spark."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import World, extembed, small_world

HAS_SPARK = find_spec("pyspark") is not None and shutil.which("java") is not None
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not HAS_SPARK, reason="needs pyspark and Java (openjdk-17-jre-headless)"),
]
FEATURES = ["all__count", "text__all__cos_mean__hl30d"]
SESSION = """
import json, sys
from pathlib import Path
from pyspark.sql import SparkSession
folder = Path(sys.argv[1])
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
spark.sparkContext.setLogLevel("ERROR")
"""
WRITE = """
from pyspark.ml.functions import array_to_vector
from pyspark.sql.functions import col
for name in ("interactions", "candidates"):
    spark.read.parquet(str(folder / f"{name}.parquet")).write.parquet(str(folder / f"{name}.spark"))
table = spark.read.parquet(str(folder / "text.parquet"))
vectors = table.select("item_id", array_to_vector(col("embedding").cast("array<double>")).alias("embedding"))
vectors.write.parquet(str(folder / "text.spark"))
"""
READ = """
read = {}
for name in ("out.parquet", "out"):
    frame = spark.read.parquet(str(folder / name)).orderBy("user_id", "item_id", "timestamp", "label")
    read[name] = {"columns": frame.columns, "rows": [row.asDict() for row in frame.select(*sys.argv[2:]).collect()]}
(folder / "read.json").write_text(json.dumps(read))
"""


def spark(folder: Path, script: str, *args: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SESSION + script, str(folder), *args], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = small_world(tmp_path_factory.mktemp("spark"))
    spark(world.folder, WRITE)
    return world


def test_spark_reads_the_features_of_what_it_wrote(world: World) -> None:
    plain = world.run()
    inputs = 'interactions = "interactions.spark"\ncandidates = "candidates.spark"\n'
    table = '[embeddings.text]\npath = "text.spark"\n[[aggregate]]\nhalf_lives = ["30d"]\n'
    spec = world.spec(f"{inputs}{table}", "spark.toml")
    for output in ("out.parquet", "out"):
        extembed("run", spec, "-o", world.folder / output).ok()
    keys = ["user_id", "item_id", "timestamp", "label"]
    expected = plain.sort(keys)
    assert (
        pl.read_parquet(world.folder / "out.parquet")
        .sort(keys)
        .select(FEATURES)
        .equals(expected.select(FEATURES), null_equal=True)
    )
    spark(world.folder, READ, *FEATURES)
    read = json.loads((world.folder / "read.json").read_text())
    for output in ("out.parquet", "out"):
        assert read[output]["columns"] == plain.columns
        for feature in FEATURES:
            values = np.array([row[feature] for row in read[output]["rows"]], float)
            np.testing.assert_array_equal(values, expected[feature].to_numpy().astype(float))
