"""A study as one HTML page that needs nothing else: for colleagues, archives and issue threads."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from search import plots, results
from search.screens import accuracy, meaning
from search.source import StudyData
from search.text import format_duration, format_value
from trials.trial import Trial, TrialState

ORDER = (
    "best", "importance", "effects", "interactions", "settings", "choices", "window-heads",
    "parallel", "curves", "timeline", "throughput",
)  # fmt: skip
"""Figures of the page: the answer first, then how it was found."""
BEST = 10


def report(data: StudyData, kinds: Sequence[str] = ORDER) -> str:
    """The page as HTML, figures and style inside, no script.

    Args:
        data: The study.
        kinds: Which of `search.plots.KINDS`, in this order.
    """
    environment = Environment(
        loader=PackageLoader("search", "pages"), autoescape=True, undefined=StrictUndefined
    )
    style = environment.get_template("style.css").render()
    figures = [(plots.KINDS[kind].doc, _inline(data, kind)) for kind in kinds]
    return environment.get_template("report.html").render(
        study=data.study,
        facts=facts(data),
        winner=winner_in_words(data),
        settings=_settings(data),
        ranking=_ranking(data),
        figures=figures,
        style=style,
    )


def winner_in_words(data: StudyData) -> str:
    """Which trial won, by how much, and with which settings; one paragraph."""
    ranked = results.best(data.trials, 2)
    if not ranked:
        return "No trial is complete yet."
    first = ranked[0]
    loss = f"{results.loss_name(data.study)} of {format_value(first.loss)}"
    told = f"Trial {first.number} won with a {loss}"
    if "validation_accuracy" in first.result:
        told += f" and a validation accuracy of {accuracy(first.result['validation_accuracy'])}"
    if len(ranked) > 1 and first.loss is not None and ranked[1].loss is not None:
        behind = format_value(ranked[1].loss - first.loss)
        told += f"; the next, trial {ranked[1].number}, is {behind} behind"
    settings = results.searched_settings(data.study, first)
    listed = ", ".join(f"{name} {format_value(value)}" for name, value in settings.items())
    return f"{told}. Its settings: {listed}."


def facts(data: StudyData) -> list[tuple[str, str]]:
    """What was searched, on what, for how long; name and value."""
    study, frame = data.study, data.frame
    counts = frame["state"].value_counts()
    spent = 3600 * results.core_hours(study, data.trials)
    rows = [
        ("state", f"{study.state}" + (f": {study.message}" if study.message else "")),
        ("trials", ", ".join(f"{counts[s]} {s}" for s in map(str, TrialState) if s in counts)),
        ("space", str(study.spec.space.get("name"))),
        ("algorithm", f"{study.spec.algorithm}, pruner {study.spec.pruner['name']}"),
        ("fixed", ", ".join(f"{k} {format_value(v)}" for k, v in study.spec.fixed.items())),
        ("began (UTC)", f"{study.created_at:%Y-%m-%d %H:%M}"),
        ("computing time", format_duration(spent)),
    ]
    for look in study.test_looks:
        told = f"{accuracy(look.get('test_accuracy'))}, trial {look['number']}"
        rows.append(("test people", f"{told}, looked at {look['at']:%Y-%m-%d %H:%M}"))
    return rows


def _settings(data: StudyData) -> list[tuple[str, str, str]]:
    best = data.best
    if best is None:
        return []
    found = results.searched_settings(data.study, best)
    return [(name, format_value(value), meaning(name)) for name, value in found.items()]


def _ranking(data: StudyData) -> dict[str, Any]:
    ranked = results.best(data.trials, BEST)
    settings = [results.searched_settings(data.study, trial) for trial in ranked]
    names = list(dict.fromkeys(name for row in settings for name in row))

    def row(trial: Trial, own: dict[str, Any]) -> list[str]:
        reached = accuracy(trial.result.get("validation_accuracy"))
        values = (format_value(own.get(name)) for name in names)
        return [str(trial.number), format_value(trial.loss), reached, *values]

    head = ["trial", "loss", "validation", *(name.replace("_", " ") for name in names)]
    return {"head": head, "rows": [row(*pair) for pair in zip(ranked, settings, strict=True)]}


def _inline(data: StudyData, kind: str) -> str:
    """A figure as a data URI."""
    picture = io.BytesIO()
    figure = plots.KINDS[kind].draw(data.frame, data.reports, data.space)
    plots.write_figure(figure, picture, "png")
    return "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
