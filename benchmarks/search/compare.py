"""Is the search any good? Best loss against budget, beside other searches.

    python -m benchmarks.search.compare [--seeds 30]
    python -m benchmarks.search.compare --courses FILE [--problem NAME ...] [--contender NAME ...]

The first writes `courses.csv` (a row for each improvement of each search), `compare.png` and the
tables in `README.md`; with ``--tables`` only the latter two, from the courses that are there. The
second writes the courses of some searches elsewhere.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import multiprocessing
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.search import problems
from benchmarks.search.contenders import CONTENDERS, Point
from benchmarks.search.record import SETS
from benchmarks.search.tables import write_tables

HERE = Path(__file__).parent
COURSES = HERE / "courses.csv"
TRIALS = 100
PRUNED_SEEDS = 20
"""At most so many of the pruned searches, which take longest."""
Case = tuple[str, str, int]
"""Problem, contender, seed."""


def cases(names: Iterable[str], contenders: Iterable[str], seeds: int) -> list[Case]:
    """What there is to search; a function has no epochs, so nothing to prune."""
    return [
        (name, contender, seed)
        for name, contender, seed in itertools.product(names, contenders, range(seeds))
        if not contender.startswith("asha") or (name in SETS and seed < PRUNED_SEEDS)
    ]


def search(case: Case) -> tuple[Case, list[Point]]:
    """Run one search; the points where something improved, and the last one."""
    name, contender, seed = case
    points = CONTENDERS[contender](problems.load(name), seed, TRIALS)
    improved = [after for before, after in itertools.pairwise(points) if after.best < before.best]
    return case, list(dict.fromkeys([points[0], *improved, points[-1]]))


def main() -> None:
    """Search, write courses, tables and figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search.compare")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--problem", choices=problems.NAMES, action="append")
    parser.add_argument("--contender", choices=CONTENDERS, action="append")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--courses", type=Path, default=COURSES, help="another file for these")
    parser.add_argument("--tables", action="store_true", help="only draw what was searched")
    given = parser.parse_args()
    if given.courses == COURSES and (given.problem or given.contender):
        parser.error(f"{COURSES.name} holds all searches: name another file with --courses")
    if not given.tables:
        os.nice(19)
        wanted = cases(given.problem or problems.NAMES, given.contender or CONTENDERS, given.seeds)
        part = given.courses.with_suffix(".part")
        with (
            multiprocessing.get_context("spawn").Pool(given.processes) as pool,
            part.open("w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["problem", "contender", "seed", "trials", "epochs", "best"])
            for done, (case, points) in enumerate(pool.imap(search, wanted), start=1):
                table.writerows([*case, p.trials, p.epochs, f"{p.best:.6g}"] for p in points)
                print(f"\r{done}/{len(wanted)}  {case}", end="\033[K", file=sys.stderr)
        part.replace(given.courses)
    if given.courses == COURSES:
        write_tables(COURSES, TRIALS)


if __name__ == "__main__":
    main()
