"""Compare the neural encoders on MovieLens 100K, with and without item ids, over several seeds.

Usage: python benchmarks/neural.py FOLDER OUT [SEEDS [NAME ...]], FOLDER as for benchmarks/evaluate.py. Models are
trained on candidates before the 45 % point by time; the ranker of the ladder is trained on later ones and tested on the
last fifth. Prints a line for each variant: mean and range over seeds of the AUC of the score alone on the test rows;
for each seed, the gain of the neural step with its interval and the AUC of the full ladder; and the seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
from dual_defaults import as_of_means
from evaluate import SPEC

RATINGS = "".join(f'[histories.rated{n}]\nwhere = "rating = {n}"\n\n' for n in range(1, 6))
OWN = ("user_count", "user_mean", "item_count", "item_mean")
ENCODERS = {
    "mean": ["--encoder", "mean"],
    "gru": ["--encoder", "gru"],
    "attention": ["--encoder", "attention"],
    "transformer": ["--encoder", "transformer"],
    "transformer, no candidate": ["--encoder", "transformer", "--no-candidate"],
}
VARIANTS = {
    f"{name}{', ids' if ids else ''}": [*flags, *ids]
    for ids in ([], ["--id-embedding"])
    for name, flags in ENCODERS.items()
}


def extembed(out: Path, *args: object) -> None:
    subprocess.run([sys.executable, "-m", "extembed_cli", *map(str, args), "-q"], cwd=out, check=True)


def prepare(folder: Path, out: Path) -> str:
    """Write candidates and their features of techniques 1 and 2, and return the 45 % point by time."""
    out.mkdir(parents=True, exist_ok=True)
    log = as_of_means(pl.read_parquet(folder / "interactions.parquet").sort("timestamp", maintain_order=True))
    log.write_parquet(out / "interactions.parquet")
    candidates = log[len(log) // 10 :].with_columns(label=(pl.col("rating") >= 4).cast(pl.Int8)).drop("rating")
    candidates.write_parquet(out / "candidates.parquet")
    spec = SPEC.replace("item_minilm.parquet", str((folder / "item_minilm.parquet").absolute()))
    (out / "spec.toml").write_text(spec)
    extembed(out, "run", "spec.toml")
    tables = spec[: spec.index("[histories")].replace('"candidates.parquet"', '"features.parquet"')
    (out / "neural.toml").write_text(tables + RATINGS + '[[neural]]\nmodel = "model"\n')
    cut: str = candidates["timestamp"].sort()[int(len(candidates) * 0.45)].isoformat()
    return cut


def evaluate_variant(out: Path, until: str, flags: list[str], seed: int) -> dict[str, float]:
    """Train, score and evaluate one variant, and return its figures."""
    model = ["--label", "label", "--model", "model", "--until", until, "--seed", seed, "--device", "cpu"]
    extembed(out, "neural", "train", "neural.toml", *model, *flags)
    extembed(out, "run", "neural.toml", "-o", "scored.parquet")
    baseline = [flag for name in OWN for flag in ("--baseline", name)]
    extembed(out, "evaluate", "scored.parquet", "--label", "label", *baseline, "-o", "report")
    report = json.loads((out / "report" / "report.json").read_text())
    last = report["ladder"][-1]
    alone = next(feature for feature in report["features"] if feature["name"] == "neural_score")
    seconds = json.loads((out / "model" / "metrics.json").read_text())["seconds"]
    low, high = last["delta_ci"]
    return {"alone": alone["auc"], "gain": last["delta"], "low": low, "high": high, "all": last["value"], "s": seconds}


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    seeds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    until = prepare(folder, out)
    for name, flags in VARIANTS.items():
        if sys.argv[4:] and name not in sys.argv[4:]:
            continue
        results = [evaluate_variant(out, until, flags, seed) for seed in range(seeds)]
        alone = [result["alone"] for result in results]
        gains = "; ".join(f"{r['gain']:+.4f} ({r['low']:+.4f} to {r['high']:+.4f}), {r['all']:.4f}" for r in results)
        seconds = sum(result["s"] for result in results) / len(results)
        mean = f"{sum(alone) / len(alone):.4f} ({min(alone):.4f} to {max(alone):.4f})"
        print(f"| {name} | {mean} | {gains} | {seconds:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
