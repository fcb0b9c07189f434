"""One evaluation from a feature file to a report: the function that the command calls."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from extembed_cli.data.files.commit import locked, remove_leftovers, staged, writing
from extembed_cli.errors import SpecError, to_install
from extembed_cli.evaluate.columns import Roles, open_features
from extembed_cli.evaluate.judge import Judge
from extembed_cli.evaluate.ladder import measure_steps
from extembed_cli.evaluate.ranker import RankerFit, fit
from extembed_cli.evaluate.report import EvaluationResults, build_report
from extembed_cli.evaluate.rows import rankers_at_once, read_roles, read_rows
from extembed_cli.evaluate.schema import Report
from extembed_cli.evaluate.segments import by_item, by_length
from extembed_cli.evaluate.settings import Settings
from extembed_cli.evaluate.shortlist import short_list, sizes
from extembed_cli.evaluate.split import assign_rows, split_rows
from extembed_cli.evaluate.univariate import column_statistics
from extembed_cli.system.progress import Watch
from extembed_cli.system.resources import Resources
from extembed_cli.system.threads import threads


def evaluate(features: str, roles: Roles, settings: Settings, resources: Resources, watch: Watch) -> Report:
    """Return the report on what the features of a file bring to a ranker. Resources do not change it."""
    settings.check()
    seeds = settings.seeds
    with watch.timing("check"):
        file = open_features(features, roles, settings.steps)
        settings.check_ladder(list(file.steps))
    with watch.timing("read"):
        watch.expect(file.table.rows)
        role_values = read_roles(file)
        assignment = assign_rows(role_values, settings, file.trained_until_us)
        rows = read_rows(file, role_values, assignment.kept, resources.memory, lambda n: watch.moved(n, 0))
        values = rows.values.size
        split = split_rows(rows, assignment)
        del rows
    at_once = min(resources.workers, 2 * len(seeds), rankers_at_once(values, resources.memory))
    threads_each = max(1, resources.workers // at_once)
    judge = Judge(split.test, settings.resamples, settings.seed)

    added = sum(map(len, file.steps.values())) - len(next(iter(file.steps.values())))
    rankers = len(seeds) * (2 * len(file.steps) - 1 + (len(sizes(added)) - 1 if added else 0))
    watch.total(rankers)
    watch.expect(rankers * len(split.train))

    with warnings.catch_warnings(action="ignore"), threads(at_once) as mapped:  # LightGBM warns about parameters

        def train_rankers(columns: Sequence[str], permuted: Sequence[str] = ()) -> list[list[RankerFit]]:
            sides = [(), permuted] if permuted else [()]
            pieces = [(seed, side) for side in sides for seed in seeds]
            fits = []
            for fitted in mapped(lambda piece: fit(split, columns, *piece, threads=threads_each), pieces):
                watch.moved(len(split.train), 1)
                fits.append(fitted)
            return [fits[i : i + len(seeds)] for i in range(0, len(fits), len(seeds))]

        with watch.timing("ladder"):
            steps = list(measure_steps(file.steps, train_rankers, judge))
        with watch.timing("short list"):
            short = short_list(split, steps, train_rankers, judge) if len(steps) > 1 else None
        with watch.timing("columns"):
            statistics = column_statistics(split)
            lengths = by_length(split.test, file.user_counters, judge, steps)
            items = by_item(split.test, judge, steps)
    results = EvaluationResults(file, assignment, split, steps, statistics, short, lengths, items)
    return build_report(settings, results, judge)


def report_job(
    features: str,
    roles: Roles,
    settings: Settings,
    output: Path,
    resources: Resources,
    watch: Watch,
) -> Report:
    """Evaluate and write report.json and report.html into a folder: both or, on an error, none."""
    missing = [name for name in ("lightgbm", "altair", "vl_convert") if find_spec(name) is None]
    if missing:
        raise SpecError(f"`extembed evaluate` needs {to_install(missing, 'evaluate')}")
    if output.exists() and not output.is_dir():
        raise SpecError(
            f"{output}: is a file, but the report is a folder with report.json and report.html. Name a folder"
        )
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
