"""What commands print for people: tables of trials, studies, spaces and data sets."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from search.derivation import DERIVATIONS, label_of
from search.parameter import Parameter, doc_of
from search.purpose import Purpose, purpose_of
from search.ranking import Ranked
from search.results import searched_settings, shared_settings, spent_s, to_plain
from search.space import Space, assignment
from search.tables import print_cut, print_rich, table
from search.text import format_duration, format_share, format_value
from trials.study import Counts, Study
from trials.trial import BUDGET_STATES, Trial

if TYPE_CHECKING:
    from model.data import DatasetInfo
    from search.answer import Answer


def settings_table(study: Study, ranked: Sequence[Ranked], title: str) -> Table:
    """One column for settings, the best first; one row a searched setting, with what it means."""
    trials = [one.trial for one in ranked]
    made = table("", *(f">trial {trial.number}" for trial in trials), "meaning", title=title)
    mean = "mean " if any(one.seeds > 1 for one in ranked) else ""
    space = Space.from_dict(study.spec.space)
    if any(labels := [label_of(trial.params, space) for trial in trials]):
        made.add_row("settings", *map(str, labels))
    if mean:
        made.add_row("seeds", *(str(one.seeds) for one in ranked))
    made.add_row(f"{mean}loss", *(format_value(one.loss) for one in ranked))
    if any("validation_accuracy" in trial.result for trial in trials):
        reached = (format_share(one.validation_accuracy) for one in ranked)
        made.add_row(f"{mean}validation accuracy", *reached)
    made.add_row("took", *(format_duration(spent_s(trial)) for trial in trials))
    made.add_section()
    settings = [searched_settings(study, trial) for trial in trials]
    if mean:
        settings = [{k: v for k, v in row.items() if k != "seed"} for row in settings]
    for name in dict.fromkeys(name for row in settings for name in row):
        values = (format_value(row.get(name)) for row in settings)
        made.add_row(name, *values, doc_of(name))
    return made


def print_answer(answer: Answer) -> None:
    """The end of a search: the winner, the best five, the figures, and how to go on."""
    name, trial = answer.study.name, answer.best
    counted = ", ".join(f"{n} {state}" for state, n in answer.counts.items() if n)
    if answer.study.message:
        print_rich(Text(answer.study.message, style="yellow"))
    if trial is None:
        told = (counted or "no trial ran") + answer.failure
        print_rich(Text(f"Study {name} has no COMPLETE trial: {told}"))
        return
    if purpose_of(answer.study) is not Purpose.SEARCH:
        print_rich(Text(f"Trials:  {counted}"), Text(f"Go on:   larnn-search summary {name}"))
        return
    print_best(answer.study, answer.ranked)
    if "validation_accuracy" in trial.result:
        print_rich(
            Text(f"Winner: trial {trial.number}"),
            Text(f"  validation accuracy  {format_share(trial.result['validation_accuracy'])}"),
            Text(f"  test accuracy        {tested(answer.test, answer.untested)}"),
        )
    print_rich(
        Text(f"Trials:  {counted}"),
        *([Text("Figures: " + ", ".join(map(str, answer.figures)))] if answer.figures else []),
        Text(f"Go on:   larnn-search show {name} {trial.number}   (all about the winner)"),
        Text(f"         larnn-search trials {name}   (every trial)"),
        Text(f"         larnn-search best {name} -n 10"),
    )


def tested(look: Mapping[str, Any] | None, untested: str) -> str:
    """The one look at the test people, in words."""
    if look is None:
        return f"not looked at: {untested}"
    return (
        f"{format_share(look['test_accuracy'])} (the trial's own weights, people never seen before)"
    )


def study_row(study: Study, counts: Counts) -> dict[str, Any]:
    """One study as JSON, for `studies --json`."""
    row: dict[str, Any] = to_plain(
        {
            "study": study.name,
            "state": study.state,
            "message": study.message,
            "space": study.spec.space.get("name"),
            "objective": study.spec.objective,
            "data": shared_settings(study).get("data"),
            "max_trials": study.spec.max_trials,
            "counts": counts,
            "created_at": study.created_at,
        }
    )
    return row


def print_studies(rows: Sequence[tuple[Study, Counts]]) -> None:
    """One row a study."""
    if not rows:
        print_rich(Text("No study yet. Start one: larnn-search run --study NAME"))
        return
    made = table("study", "state", "space", "data", ">trials", "~by state", "created (UTC)")
    for study, counts in rows:
        finished = sum(counts[state] for state in BUDGET_STATES)
        made.add_row(
            study.name,
            str(study.state),
            str(study.spec.space.get("name")),
            str(shared_settings(study).get("data", "-")),
            f"{finished}/{study.spec.max_trials or '∞'}",
            ", ".join(f"{count} {state}" for state, count in counts.items() if count),
            f"{study.created_at:%Y-%m-%d %H:%M}",
        )
    print_rich(made)


def print_trials(study: Study, trials: Sequence[Trial]) -> None:
    """One row a trial, by number: what it reached, and its searched settings in real values."""
    if not trials:
        print_rich(Text(f"Study {study.name}: no such trial"))
        return
    rows = [(trial, searched_settings(study, trial)) for trial in trials]
    names = list(dict.fromkeys(name for _, settings in rows for name in settings))
    accuracies = any("validation_accuracy" in trial.result for trial, _ in rows)
    columns = [">trial", "state", ">loss", *([">validation"] if accuracies else []), ">time"]
    made = table(*columns, *(name.replace("_", " ") for name in names))
    for trial, settings in rows:
        reached = [format_share(trial.result.get("validation_accuracy"))] if accuracies else []
        made.add_row(
            str(trial.number),
            str(trial.state),
            format_value(trial.loss),
            *reached,
            format_duration(spent_s(trial)),
            *(format_value(settings.get(name)) for name in names),
        )
    print_cut(made, keep=len(columns))


def print_best(study: Study, ranked: Sequence[Ranked]) -> None:
    """The best settings side by side, in real values, and what all trials share."""
    print_cut(settings_table(study, ranked, f"The best of study {study.name}"), keep=2)
    if shared := shared_settings(study):
        print_rich(_pins(shared))


def print_trial(study: Study, trial: Trial) -> None:
    """Everything about one trial."""
    facts = table("", "~", title=f"Study {study.name}, trial {trial.number}: {trial.state}")
    for name, value in {
        "loss": format_value(trial.loss),
        "attempts": f"{trial.attempt} ({trial.retries} counted as retries)",
        "worker": trial.worker or "-",
        "started (UTC)": f"{trial.started_at:%Y-%m-%d %H:%M:%S}" if trial.started_at else "-",
        "took": format_duration(spent_s(trial)),
        "suggested by": str(trial.suggestion.get("origin", "-")),
    }.items():
        facts.add_row(name, value)
    if "seed" not in trial.params:  # else that one is what trains
        facts.add_row("seed", str(trial.seed))
    for name, value in trial.result.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {part}" for key, part in value.items())
        if name != "seed":
            facts.add_row(name.replace("_", " "), format_value(value))
    settings = table("parameter", "~value", "~meaning", title="Parameters, as trained")
    for name, value in trial.params.items():
        settings.add_row(name, format_value(value), doc_of(name))
    print_rich(facts, settings)
    if trial.reports:
        print_rich(_reports(trial))
    for failure in trial.failures:
        head = f"Attempt {failure.attempt} on {failure.host} failed ({failure.kind}): "
        print_rich(Text(head + failure.message, style="red"), Text(failure.traceback))


def _reports(trial: Trial) -> Table:
    metrics = list(dict.fromkeys(name for report in trial.reports for name in report.metrics))
    made = table(">step", ">loss", *(f">{m.replace('_', ' ')}" for m in metrics), title="Reports")
    for report in trial.reports:
        values = (format_value(report.metrics.get(name)) for name in metrics)
        made.add_row(str(report.step), format_value(report.loss), *values)
    return made


def print_datasets(cards: Sequence[DatasetInfo]) -> None:
    """One row a data set."""
    made = table(
        "data set", "~what", ">sequences", "shape [T,F]", ">classes", ">people", "here", "~"
    )
    for card in cards:
        shape = None if card.steps is None else f"[{card.steps}, {card.channels}]"
        made.add_row(
            card.name,
            card.doc,
            *(
                format_value(number)
                for number in (card.sequences, shape, card.classes, card.people)
            ),
            "yes" if card.present else "no",
            f"{card.licence}; {card.source}",
        )
    print_rich(made)


def print_spaces(spaces: Sequence[Space]) -> None:
    """One row a space."""
    made = table("space", "~what", "~searched")
    for space in spaces:
        made.add_row(space.name, space.doc, ", ".join(row.name for row in space.rows))
    print_rich(made, Text("larnn-search spaces NAME shows the ranges of one."))


def print_space(space: Space) -> None:
    """The ranges of one space, and what it fixes."""
    made = table(
        "parameter", "~values", "~sampled", "~when", "~meaning", title=f"Space {space.name}"
    )
    derivation = DERIVATIONS.get(space.derive or "")
    meanings = derivation.meanings if derivation else {}
    for row in space.rows:
        condition = ", ".join(f"{name} = {value}" for name, value in row.when.items())
        means = meanings.get(row.name, row.doc)
        made.add_row(row.name, values_of(row), sampled_as(row), condition, means)
    print_rich(made)
    if space.fixed:
        print_rich(_pins(space.fixed))
    if derivation:
        print_rich(Text(f"Derived: {derivation.doc}"))


def _pins(settings: Mapping[str, Any]) -> Text:
    """Settings that do not vary, as ``--fix`` takes them."""
    return Text("Fixed: " + shlex.join(assignment(name, value) for name, value in settings.items()))


def values_of(row: Parameter) -> str:
    """The values that a row can take."""
    if row.kind == "choice":
        return ", ".join(str(value) for value in row.choices)
    low, high = row.bounds
    return f"{format_value(low)} to {format_value(high)}"


def sampled_as(row: Parameter) -> str:
    """How a row is sampled, in words."""
    return {
        "choice": "one of them",
        "uniform": "evenly",
        "int": "whole numbers, evenly",
        "loguniform": "evenly in the logarithm",
        "logint": "whole numbers, evenly in the logarithm",
    }[row.kind]


def print_comparison(rows: Sequence[Mapping[str, Any]]) -> None:
    """One row a study; what intervals mean stands below."""
    from search.compare import unlike  # numpy, which no other screen needs

    budget = rows[0]["budget"]
    losses = (">best loss", ">validation", f">best of first {budget}", ">expected loss [95 %]")
    made = table("study", "cell", ">trials", ">core hours", *losses, ">test [95 %]", ">parameters")
    for row in rows:
        expected = format_value(row["expected_loss"])
        if row["expected_interval"]:
            ends = (
                "none" if end is None else format_value(end) for end in row["expected_interval"]
            )
            expected += f" [{', '.join(ends)}]"
        test = format_share(row["test_accuracy"])
        if row["test_interval"]:
            test += " [{:.2f}, {:.2f}]".format(*(100 * end for end in row["test_interval"]))
        made.add_row(
            row["study"],
            str(row["cell"] or "-"),
            f"{row['complete']}/{row['finished']}",
            f"{row['core_hours']:.2f}",
            format_value(row["best_loss"]),
            format_share(row["validation_accuracy"]),
            format_value(row["loss_in_budget"]),
            expected,
            test,
            format_value(row["parameters"]),
        )
    below = (
        f"trials: complete/finished. expected loss: the best of any {budget}, on average and "
        "in 95 of 100 searches (none: no trial is complete), as if none had learned from others: "
        "that flatters a longer search by TPE. test: the chosen trial, over sequences (one "
        "person's are alike)."
    )
    print_rich(made, Text(below, style="dim"))
    if differing := unlike(rows):
        told = "; ".join(
            f"{name.replace('_', ' ')} {', '.join(map(format_value, dict.fromkeys(values)))}"
            for name, values in differing.items()
        )
        print_rich(Text(f"Losses do not compare, the studies differ: {told}", style="yellow"))
