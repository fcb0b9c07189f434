"""Which neural encoder on MovieLens 100K? Each, with and without item ids, several seeds, and the ladder with it.

Usage: python benchmarks/neural.py FOLDER OUT [SEEDS [NAME ...]], FOLDER as for benchmarks/evaluate.py. Models train
on candidates before the 45 % point by time; the ladder's ranker learns from the rest up to the last fifth, and is
tested on that. Prints a line for each variant: AUC of the score alone on the test rows, the mean over seeds and the
spread; gain of the neural step over all before it, with its interval, and AUC of the full ladder, for each seed.
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
    """Candidates, and their features of techniques 1 and 2; the 45 % point by time."""
    out.mkdir(parents=True, exist_ok=True)
    log = as_of_means(pl.read_parquet(folder / "interactions.parquet").sort("timestamp", maintain_order=True))
    log.write_parquet(out / "interactions.parquet")
    asked = log[len(log) // 10 :].with_columns(label=(pl.col("rating") >= 4).cast(pl.Int8)).drop("rating")
    asked.write_parquet(out / "candidates.parquet")
    spec = SPEC.replace("item_minilm.parquet", str((folder / "item_minilm.parquet").absolute()))
    (out / "spec.toml").write_text(spec)
    extembed(out, "run", "spec.toml")
    tables = spec[: spec.index("[histories")].replace('"candidates.parquet"', '"features.parquet"')
    (out / "neural.toml").write_text(tables + RATINGS + '[[neural]]\nmodel = "model"\n')
    return asked["timestamp"].sort()[int(len(asked) * 0.45)].isoformat()


def judged(out: Path, until: str, flags: list[str], seed: int) -> dict[str, float]:
    """Train, score and evaluate one variant."""
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
        found = [judged(out, until, flags, seed) for seed in range(seeds)]
        alone = [each["alone"] for each in found]
        gains = "; ".join(f"{f['gain']:+.4f} ({f['low']:+.4f} to {f['high']:+.4f}), {f['all']:.4f}" for f in found)
        seconds = sum(each["s"] for each in found) / len(found)
        mean = f"{sum(alone) / len(alone):.4f} ({min(alone):.4f} to {max(alone):.4f})"
        print(f"| {name} | {mean} | {gains} | {seconds:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
