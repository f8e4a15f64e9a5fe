"""What `rank`, `ablate`, `final` and `summary` print: `search.summary.summary` as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from search.tables import print_rich, table
from search.text import format_share, format_value

PEOPLE = {
    "test": "test people",
    "folds": "all people, in folds",
    "others": "the people who chose nothing",
}


def print_summary(told: Mapping[str, Any]) -> None:
    """Searches, what was trained again, finals with their differences; whatever there is of it."""
    searches = {name: row for name, row in told["studies"].items() if "trials" in row}
    finals = {name: row for name, row in told["studies"].items() if len(_judged(row))}
    if searches:
        print_rich(_searches(searches))
    for name, rows in told["again"].items():
        print_rich(_again(name, rows))
    if told["again"]:
        print_rich(_dim("Validation people, the same for all: how others would do is not in the "
                        "intervals. These are over seeds, whose spread is estimated from all rows. "
                        "to the first: of the loss; 95 % for all of these together."))  # fmt: skip
    if finals:
        print_rich(_finals(finals), *_differences(told["differences"]))
        print_rich(_dim("Intervals: 95 %, bootstrap over people and seeds; over folds, where one "
                        "has a single seed. None while trainings are missing."))  # fmt: skip


def _searches(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    made = table("search", "cell", ">trials", ">core hours", ">validation accuracy")
    for name, row in rows.items():
        spent = f"{row['core_hours']:.2f}"
        reached = format_share(row["validation_accuracy"])
        made.add_row(name, str(row["cell"] or "-"), str(row["trials"]), spent, reached)
    return made


def _again(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = (">trainings", ">loss [95 %]", ">to the first [95 %]", ">accuracy [95 %]")
    made = table("settings", *columns, ">parameters", title=name)
    for row in rows:
        made.add_row(
            row["settings"],
            f"{len(row['losses'])}/{row['trainings']}"
            + (f", {row['diverged']} diverged" if row["diverged"] else ""),
            format_value(row["loss_mean"]) + _ends(row["loss_interval"], ".4f"),
            _ratio(row["ratio_mean"], row["ratio_interval"]),
            format_share(row["accuracy_mean"]) + _percent(row["accuracy_interval"]),
            format_value(row["parameters"]),
        )
    return made


def _judged(row: Mapping[str, Any]) -> list[str]:
    """Whom the finals of a search judged, or tried to."""
    return [kind for kind in PEOPLE if f"{kind}_study" in row or f"{kind}_people" in row]


def _finals(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    made = table("search", "cell", "judged on", ">trainings", ">accuracy [95 %]", ">parameters")
    for name, row in rows.items():
        for kind in _judged(row):
            final = "folds" if kind == "others" else kind
            lost = {what: row[f"{final}_{what}"] for what in ("diverged", "failed")}
            count = f"{row[f'{final}_ended']}/{row[f'{final}_trainings']}"
            trainings = ", ".join([count, *(f"{n} {what}" for what, n in lost.items() if n)])
            reached = row.get(f"{kind}_accuracy_mean")
            mean = format_share(reached) + _percent(row.get(f"{kind}_interval"))
            size = format_value(row.get("parameters"))
            made.add_row(name, str(row["cell"]), PEOPLE[kind], trainings, mean, size)
    return made


def _differences(rows: Sequence[Mapping[str, Any]]) -> list[Text]:
    return [
        _dim(f"{' over '.join(row['studies'])}, {row['people']} people ({PEOPLE[row['judged']]}): "
             f"{100 * row['mean']:+.2f} points{_percent(row['interval'])}")
        for row in rows if row["mean"] is not None
    ]  # fmt: skip


def _ratio(mean: float | None, ends: Sequence[float] | None) -> str:
    """How much more a loss is, in per cent."""
    if mean is None:
        return "-"
    more = [100 * (end - 1) for end in ends] if ends else None
    return f"{100 * (mean - 1):+.1f} %{_ends(more, '+.1f')}"


def _percent(ends: Sequence[float] | None) -> str:
    return _ends(None if ends is None else [100 * end for end in ends], ".2f")


def _ends(ends: Sequence[float] | None, form: str) -> str:
    return "" if ends is None else f" [{ends[0]:{form}}, {ends[1]:{form}}]"


def _dim(line: str) -> Text:
    return Text(line, style="dim")
