"""One evaluation from a feature file to a report: the one function that the command calls."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from extembed_cli.data.commit import locked, remove_leftovers, staged, writing
from extembed_cli.errors import SpecError, listing
from extembed_cli.evaluate.columns import COUNTERS, Roles, open_features
from extembed_cli.evaluate.findings import Found, report_of
from extembed_cli.evaluate.judge import Judge
from extembed_cli.evaluate.ladder import climb
from extembed_cli.evaluate.ranker import Ranked, fit
from extembed_cli.evaluate.rows import rankers_at_once, read_roles, read_rows
from extembed_cli.evaluate.schema import Report
from extembed_cli.evaluate.segments import by_length
from extembed_cli.evaluate.settings import Settings
from extembed_cli.evaluate.shortlist import short_list, sizes
from extembed_cli.evaluate.single import judge_columns
from extembed_cli.evaluate.split import plan_split, split_rows
from extembed_cli.system.progress import Watch
from extembed_cli.system.resources import Resources
from extembed_cli.system.threads import threads


def evaluate(features: str, roles: Roles, settings: Settings, resources: Resources, watch: Watch) -> Report:
    """Measure what the features of a file bring to a ranker. Neither threads nor memory change the report."""
    settings.check()
    seeds = settings.seeds
    with watch.timing("check"):
        file = open_features(features, roles)
    with watch.timing("read"):
        watch.expect(file.table.rows)
        roled = read_roles(file)
        plan = plan_split(roled, settings, file.trained_until_us)
        rows = read_rows(file, roled, plan.kept, resources.memory, lambda n: watch.moved(n, 0))
        values = rows.values.size
        split = split_rows(rows, plan)
        del rows
    at_once = min(resources.workers, 2 * len(seeds), rankers_at_once(values, resources.memory))
    each = max(1, resources.workers // at_once)
    judge = Judge(split.test, settings.resamples, settings.seed)

    added = sum(map(len, file.steps.values())) - len(next(iter(file.steps.values())))
    rankers = len(seeds) * (2 * len(file.steps) - 1 + (len(sizes(added)) - 1 if added else 0))
    watch.total(rankers)
    watch.expect(rankers * len(split.train))

    with warnings.catch_warnings(action="ignore"), threads(at_once) as mapped:  # LightGBM's, of parameters

        def train(columns: Sequence[str], permuted: Sequence[str] = ()) -> list[list[Ranked]]:
            sides = [(), permuted] if permuted else [()]
            pieces = [(seed, side) for side in sides for seed in seeds]
            fits = []
            for made in mapped(lambda piece: fit(split, columns, *piece, threads=each), pieces):
                watch.moved(len(split.train), 1)
                fits.append(made)
            return [fits[i : i + len(seeds)] for i in range(0, len(fits), len(seeds))]

        with watch.timing("ladder"):
            steps = list(climb(file.steps, train, judge))
        with watch.timing("short list"):
            short = short_list(split, steps, train, judge) if len(steps) > 1 else None
        with watch.timing("columns"):
            singles = judge_columns(split)
            buckets = by_length(split.test, file.steps.get(COUNTERS, []), judge, steps)
    found = Found(file, plan, split, steps, singles, short, buckets)
    return report_of(settings, found, judge)


def report_job(
    features: str,
    roles: Roles,
    settings: Settings,
    output: Path,
    resources: Resources,
    watch: Watch,
) -> Report:
    """Evaluate, and write report.json and report.html into a folder, both or none."""
    missing = [name for name in ("lightgbm", "altair", "vl_convert") if find_spec(name) is None]
    if missing:
        raise SpecError(f"`extembed evaluate` needs {listing(missing)}: pip install 'extembed[evaluate]'")
    if output.exists() and not output.is_dir():
        raise SpecError(f"{output}: is a file; the report is a folder with report.json and report.html")
    with locked(output, resources.wait), staged() as stage:
        report = evaluate(features, roles, settings, resources, watch)
        with watch.timing("page"), writing(output):
            from extembed_cli.evaluate.page import page  # noqa: PLC0415  altair is slow to import

            text = page(report)
            stage.folder(output)
            for name in ("report.json", "report.html"):
                remove_leftovers(output / name)
            stage.json(output / "report.json", report.model_dump(mode="json"))
            stage.temporary(output / "report.html").write_text(text, encoding="utf-8")
            stage.commit()
    return report
