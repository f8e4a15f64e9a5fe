"""A study as one HTML page that needs nothing else: for colleagues, archives and issue threads."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from search import plots, results
from search.figure_kinds import KINDS, ON_PAGES
from search.parameter import doc_of
from search.ranking import Ranked
from search.source import StudyData
from search.text import format_duration, format_share, format_value
from trials.trial import TrialState

BEST = 10


def report(data: StudyData, kinds: Sequence[str] = ON_PAGES) -> str:
    """The page as HTML, figures and style inside, no script.

    Args:
        data: The study.
        kinds: Which of `search.figure_kinds.KINDS`, in this order; those with nothing to show are
            left out.
    """
    environment = Environment(
        loader=PackageLoader("search", "pages"), autoescape=True, undefined=StrictUndefined
    )
    style = environment.get_template("style.css").render()
    drawn = ((KINDS[kind].doc, plots.draw(kind, data)) for kind in kinds)
    figures = [(doc, _inline(one)) for doc, one in drawn if not isinstance(one, plots.EmptyFigure)]
    return environment.get_template("report.html").render(
        study=data.study,
        facts=facts(data),
        winner=winner_in_words(data),
        settings=[] if data.purpose.is_final else _settings(data),
        ranking={} if data.purpose.is_final else _ranking(data),
        figures=figures,
        style=style,
    )


def winner_in_words(data: StudyData) -> str:
    """Which settings won, by how much, and what they are; one paragraph."""
    if data.purpose.is_final:
        return f"A final chooses nothing: larnn-search summary {data.study.name} tells its result."
    if not data.ranked:
        return "No trial is complete yet."
    first, *others = data.ranked
    seeds = f", on average over {first.seeds} seeds" if first.seeds > 1 else ""
    told = f"Trial {first.trial.number} won with a {results.loss_name(data.study)} of "
    told += format_value(first.loss)
    if first.validation_accuracy is not None:
        told += f" and a validation accuracy of {format_share(first.validation_accuracy)}"
    told += seeds
    if others:
        behind = format_value(others[0].loss - first.loss)
        told += f"; the next, trial {others[0].trial.number}, is {behind} behind"
    settings = _searched(data, first)
    listed = ", ".join(f"{name} {format_value(value)}" for name, value in settings.items())
    return f"{told}. Its settings: {listed}."


def _searched(data: StudyData, ranked: Ranked) -> dict[str, Any]:
    """What tells settings from others of their study."""
    found = results.searched_settings(data.study, ranked.trial)
    return found if ranked.seeds == 1 else {k: v for k, v in found.items() if k != "seed"}


def facts(data: StudyData) -> list[tuple[str, str]]:
    """What was searched, on what, for how long; name and value."""
    study, frame = data.study, data.frame
    shared = results.shared_settings(study)
    counts = frame["state"].value_counts()
    spent = 3600 * results.core_hours(study, data.trials)
    rows = [
        ("state", f"{study.state}" + (f": {study.message}" if study.message else "")),
        ("trials", ", ".join(f"{counts[s]} {s}" for s in map(str, TrialState) if s in counts)),
        ("space", str(study.spec.space.get("name"))),
        ("algorithm", f"{study.spec.algorithm}, pruner {study.spec.pruner['name']}"),
        ("fixed", ", ".join(f"{k} {format_value(v)}" for k, v in shared.items())),
        ("began (UTC)", f"{study.created_at:%Y-%m-%d %H:%M}"),
        ("computing time", format_duration(spent)),
    ]
    for look in study.test_looks:
        told = f"{format_share(look.get('test_accuracy'))}, trial {look['number']}"
        rows.append(("test people", f"{told}, looked at {look['at']:%Y-%m-%d %H:%M}"))
    return rows


def _settings(data: StudyData) -> list[tuple[str, str, str]]:
    found = _searched(data, data.ranked[0]) if data.ranked else {}
    return [(name, format_value(value), doc_of(name)) for name, value in found.items()]


def _ranking(data: StudyData) -> dict[str, Any]:
    first = data.ranked[:BEST]
    settings = [_searched(data, one) for one in first]
    names = list(dict.fromkeys(name for row in settings for name in row))

    def row(one: Ranked, own: dict[str, Any]) -> list[str]:
        told = (
            str(one.trial.number),
            format_value(one.loss),
            format_share(one.validation_accuracy),
        )
        return [*told, *(format_value(own.get(name)) for name in names)]

    head = ["trial", "loss", "validation", *(name.replace("_", " ") for name in names)]
    return {"head": head, "rows": [row(*pair) for pair in zip(first, settings, strict=True)]}


def _inline(figure: Figure) -> str:
    """A figure as a data URI."""
    picture = io.BytesIO()
    plots.write_figure(figure, picture, "png")
    return "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
