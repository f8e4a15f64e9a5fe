"""Every look at the test people: of searches as logged, of finals as their trials tell."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from search.final import TEST
from search.results import to_plain
from search.source import StudyData
from trials.trial import TrialState

COLUMNS = ("at", "study", "number", "judged", "seed", "sequences", "accuracy", "note")
"""``note`` is for people: a command writes none."""


def looks(studies: Sequence[StudyData]) -> list[dict[str, Any]]:
    """Every look that studies took, the earliest first; plain values of `COLUMNS`.

    A final's looks are its COMPLETE trials themselves: whoever carried them out, none is missing.
    """
    rows = [
        to_plain({"note": "", **row, "study": data.study.name})
        for data in studies
        for row in (_of_final(data) if data.purpose.is_final else _of_search(data))
    ]
    return sorted(rows, key=lambda row: (str(row["at"]), row["study"], row["number"]))


def _of_search(data: StudyData) -> Iterator[dict[str, Any]]:
    seeds = {trial.number: trial.params.get("seed", trial.seed) for trial in data.trials}
    for look in data.study.test_looks:
        yield {
            "at": look.get("at"),
            "number": look["number"],
            "judged": TEST,
            "seed": seeds.get(look["number"]),
            "sequences": look.get("test_sequences"),
            "accuracy": look.get("test_accuracy"),
        }


def _of_final(data: StudyData) -> Iterator[dict[str, Any]]:
    for trial in data.trials:
        if trial.state is TrialState.COMPLETE and "accuracy" in trial.result:
            told = {name: trial.result[name] for name in ("judged", "seed", "sequences")}
            accuracy = trial.result["accuracy"]
            yield {"at": trial.finished_at, "number": trial.number, "accuracy": accuracy, **told}


def as_csv(rows: Iterable[Mapping[str, Any]], *, header: bool = True) -> str:
    """Rows of `looks` as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> int:
    """Add the looks that a log does not have yet; what it has stays as it is.

    Args:
        path: A CSV file with `COLUMNS`; made if it is missing.
        rows: As `looks` gives them.

    Returns:
        How many were added.

    Raises:
        ValueError: If the file has other columns, or cannot be read or written.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        logged = csv.DictReader(io.StringIO(text or as_csv(())))
        if tuple(logged.fieldnames or ()) != COLUMNS:
            raise ValueError(f"a log of looks has columns {', '.join(COLUMNS)}; {path} has others")
        known = {_identity(row) for row in logged}
        new = {_identity(row): row for row in rows if _identity(row) not in known}
        gap = "" if text.endswith("\n") or not text else "\n"
        with path.open("a", encoding="utf-8") as file:  # what is logged is not written again
            file.write(gap + as_csv(new.values(), header=not text))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be a log of looks: {error}") from error
    return len(new)


def _identity(row: Mapping[str, Any]) -> tuple[str, ...]:
    return str(row["at"]), str(row["study"]), str(row["number"])
