"""What searches, rankings, ablations and finals say, study by study, with paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from search.again import comparison
from search.final import SOURCE, search_name
from search.purpose import Purpose
from search.results import core_hours
from search.source import StudyData
from trials.trial import FailureKind, Trial, TrialState

RESAMPLES = 10_000
Interval = tuple[float, float]


@dataclass(frozen=True)
class Judged:
    """The trainings of a final that came to an end, and the people they judged."""

    trainings: tuple[Trial, ...]
    people: tuple[str, ...]

    @property
    def data_fingerprint(self) -> str | None:
        """Of the data whose people these are."""
        told: str | None = self.trainings[0].result.get("data_fingerprint")
        return told

    @property
    def named(self) -> bool:
        """Whether the data name people; else what was judged at once stands for one."""
        return all("people" in trial.result for trial in self.trainings)

    def of(self, people: Callable[[str], bool]) -> Judged:
        """The same trainings, some of the people."""
        return Judged(self.trainings, tuple(filter(people, self.people)))

    def counts(self, trainings: Sequence[Trial]) -> NDArray[np.float64]:
        """Correct and all sequences of each person, ``[trainings, people, 2]``."""
        told = [[_people(t).get(who, (0, 0)) for who in self.people] for t in trainings]
        return np.array(told, dtype=float)

    @property
    def accuracy(self) -> float:
        """Share of correct sequences, a person's being the mean of who judged it."""
        return float(_share(sum(self.counts(group).mean(axis=0) for group in self.groups)))

    @property
    def accuracies(self) -> list[float]:
        """The same of each seed alone."""
        seeds = sorted({int(trial.result["seed"]) for trial in self.trainings})
        alike = ([t for t in self.trainings if t.result["seed"] == seed] for seed in seeds)
        return [float(_share(self.counts(trainings).sum(axis=0))) for trainings in alike]

    @property
    def groups(self) -> list[list[Trial]]:
        """Trainings that judged the same people: they differ by their seed."""
        groups: dict[str, list[Trial]] = {}
        for trial in self.trainings:
            if any(who in self.people for who in _people(trial)):
                groups.setdefault(trial.result["judged"], []).append(trial)
        return list(groups.values())

    @property
    def has_seeds(self) -> bool:
        """Whether the luck of all models can be told from other seeds."""
        return all(len(group) > 1 for group in self.groups)

    def resampled(self, *, seeds: bool, side: int = 0) -> NDArray[np.float64]:
        """Accuracies of `RESAMPLES` draws of people and, for each group of them, of seeds.

        People of a fold share its models, so drawing people alone would take a model's luck for
        nothing. The draws of people are the same at every call, those of seeds differ by ``side``:
        two finals are compared on the same people, with models of their own.

        Args:
            seeds: Draw seeds; else people are drawn by whole groups, with the luck they share.
            side: Which of two finals.
        """
        groups = self.groups
        if seeds:
            drawn = _draws(np.random.default_rng(0), len(self.people))
        else:
            places = [[who in _people(group[0]) for group in groups] for who in self.people]
            drawn = _draws(np.random.default_rng(0), len(groups))[:, np.argmax(places, axis=1)]
        of_seeds = np.random.default_rng([1, side])
        sums = np.zeros((RESAMPLES, len(self.people), 2))
        for group in groups:
            size = len(group)
            weights = _draws(of_seeds, size) / (size - 1) if seeds else np.full((1, size), 1 / size)
            sums += np.tensordot(weights, self.counts(group), axes=1)
        return _share(sums * drawn[..., None])


def _draws(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """How often each of ``count`` things is drawn, ``[RESAMPLES, count]``.

    One less is drawn than there are: the variance of ``count`` draws is too small by one part in
    ``count`` (Rao and Wu 1988, "Resampling inference with complex survey data"), which of two seeds
    is half.
    """
    return rng.multinomial(count - 1, [1 / count] * count, size=RESAMPLES)


def _people(trial: Trial) -> Mapping[str, tuple[int, int]]:
    """Correct and all sequences of each person that a training judged."""
    told = trial.result
    all_at_once = (round(told["accuracy"] * told["sequences"]), told["sequences"])
    people: Mapping[str, tuple[int, int]] = told.get("people", {told["judged"]: all_at_once})
    return people


def _whom(group: Sequence[Trial]) -> tuple[str, ...]:
    """The people that a group of trainings judged."""
    return tuple(sorted(_people(group[0])))


def _share(counts: Any) -> NDArray[np.float64]:
    """Accuracy over people, of counts ``[..., people, 2]``."""
    correct, sequences = np.moveaxis(np.asarray(counts).sum(axis=-2), -1, 0)
    share: NDArray[np.float64] = correct / sequences
    return share


def summary(studies: Sequence[StudyData]) -> dict[str, Any]:
    """What searches and what followed them say, by search, and differences between searches.

    Returns:
        ``{"studies": {search: {...}}, "again": {study: [...]}, "differences": [...]}``.

        Of a search ``cell``, ``trials``, ``core_hours``, ``validation_accuracy``; ``again`` holds
        `search.again.comparison` of rankings and ablations. Of a final ``parameters``, ``epochs``,
        ``settings`` and, with the prefix ``test_`` or ``folds_``, ``study``, ``trainings``,
        ``ended``, ``diverged``, ``failed``, ``core_hours`` and ``accuracy_mean``, ``accuracies``
        (by seed), ``interval`` (95 %, bootstrap over people and seeds; over folds, where one has a
        single seed), ``people``. Where not all trainings have ended, or some diverged, those that
        are left flatter it: there is no interval and no difference. With the prefix ``others_``:
        the folds' accuracy on those who were no validation people of the search, and so chose
        nothing. A difference is of the first search's accuracy less the second's, on the same
        people (``judged``: test, folds or others), with the same kind of interval.

    Raises:
        ValueError: If two of the studies are of the same kind and search, or two finals of a search
            judged other settings.
    """
    rows: dict[str, dict[str, Any]] = {}
    again: dict[str, list[dict[str, Any]]] = {}
    judged: dict[str, dict[str, Judged]] = {"test": {}, "folds": {}, "others": {}}
    seen: dict[tuple[str, str], str] = {}
    for data in studies:
        name, kind = _search_of(data), data.purpose
        if (name, kind) in seen:
            raise ValueError(
                f"a summary takes one {kind} of each search, got {seen[name, kind]} and "
                f"{data.study.name} of {name}"
            )
        seen[name, kind] = data.study.name
        if kind is Purpose.AGAIN:
            again[name] = comparison(data)
        elif kind is Purpose.SEARCH:
            rows.setdefault(name, {}).update(_search_row(data))
        else:
            found = _judged_people(data, kind)
            _check_settings(rows.get(name, {}), data)
            rows.setdefault(name, {}).update(_final_row(data, kind, found))
            if _is_whole(data, found.get(kind)):
                for people, part in found.items():
                    judged[people][name] = part
    differences = [
        {"judged": people, **_difference(*pair, parts[pair[0]], parts[pair[1]])}
        for people, parts in judged.items()
        for pair in combinations(parts, 2)
    ]
    return {"studies": rows, "again": again, "differences": differences}


def _is_whole(data: StudyData, found: Judged | None) -> bool:
    """Whether every training of a final has judged its people."""
    return found is not None and len(found.trainings) == data.study.spec.max_trials


def _check_settings(row: Mapping[str, Any], data: StudyData) -> None:
    """Refuse a final of other settings than the one that is in a search's row already."""
    known = row.get("settings")
    if known is None:
        return
    ours = data.study.spec.fixed
    if _judged_settings(known) != _judged_settings(ours):
        raise ValueError(
            f"a summary takes finals of the same settings of each search, got those of "
            f"{known[SOURCE]} and, in {data.study.name}, of {ours[SOURCE]}"
        )


def _judged_settings(fixed: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in fixed.items() if k not in (SOURCE, "judged", "seed")}


def _search_of(data: StudyData) -> str:
    """To which search a study belongs (an ablation or ranking: to itself)."""
    study = data.study
    if not data.purpose.is_final:
        return study.name
    return search_name(str(study.spec.fixed[SOURCE]).split()[0])


def _search_row(data: StudyData) -> dict[str, Any]:
    return {
        "cell": data.cell,
        "trials": data.finished,
        "core_hours": core_hours(data.study, data.trials),
        "validation_accuracy": data.ranked[0].validation_accuracy if data.ranked else None,
    }


def _judged_people(data: StudyData, kind: str) -> dict[str, Judged]:
    """By who is looked at: all whom a final judged, and of folds also those who chose nothing."""
    complete = (trial for trial in data.trials if trial.state is TrialState.COMPLETE)
    trainings = tuple(trial for trial in complete if "accuracy" in trial.result)
    if not trainings:
        return {}
    people = tuple(dict.fromkeys(who for trial in trainings for who in _people(trial)))
    found = Judged(trainings, people)
    chose = set(trainings[0].result["validation_people"])
    others = found.of(lambda who: who not in chose)
    is_told = kind == "folds" and chose and others.people
    return {kind: found, **({"others": others} if is_told else {})}


def _final_row(data: StudyData, kind: str, found: Mapping[str, Judged]) -> dict[str, Any]:
    failed = [trial for trial in data.trials if trial.state is TrialState.FAILED]
    diverged = sum(trial.failures[-1].kind is FailureKind.NAN_LOSS for trial in failed)
    ended = found[kind].trainings if kind in found else ()
    row: dict[str, Any] = {
        "cell": data.study.spec.fixed.get("cell", "larnn"),
        "settings": dict(data.study.spec.fixed),
        f"{kind}_study": data.study.name,
        f"{kind}_trainings": data.study.spec.max_trials,
        f"{kind}_ended": len(ended),
        f"{kind}_diverged": diverged,
        f"{kind}_failed": len(failed) - diverged,
        f"{kind}_core_hours": core_hours(data.study, data.trials),
    }
    if ended:
        row["parameters"] = ended[0].result["num_parameters"]
        row["epochs"] = ended[0].result["epochs_run"]
    for people, part in found.items():
        row[f"{people}_accuracy_mean"] = part.accuracy
        row[f"{people}_accuracies"] = part.accuracies
        row[f"{people}_interval"] = _interval(part) if _is_whole(data, found[kind]) else None
        row[f"{people}_people"] = len(part.people)
    return row


def _difference(first: str, second: str, ours: Judged, theirs: Judged) -> dict[str, Any]:
    """How much more often the first is right, people drawn together for both.

    People of other data are others, whatever their names.
    """
    alike = ours.data_fingerprint == theirs.data_fingerprint
    shared = set(ours.people) & set(theirs.people) if alike else set()
    told: dict[str, Any] = {"studies": [first, second], "people": len(shared)}
    if not shared:
        return {**told, "mean": None, "interval": None}
    in_order = tuple(sorted(shared))
    a, b = Judged(ours.trainings, in_order), Judged(theirs.trainings, in_order)
    return {**told, "mean": a.accuracy - b.accuracy, "interval": _interval(a, b)}


def _interval(ours: Judged, theirs: Judged | None = None) -> Interval | None:
    """95 % of an accuracy, or of how much it is above another's on the same people.

    The ends lie further out than 2.5 and 97.5 %, as Student's t does of as many people: of nine,
    plain ones would hold the truth 91 times in 100 (Hesterberg 2015, "What Teachers Should Know
    About the Bootstrap": expanded percentile intervals).

    None where nobody is named, or there is only one person, or one group without seeds, to draw, or
    two finals without seeds have other groups.
    """
    sides = [side for side in (ours, theirs) if side is not None]
    seeds = all(side.has_seeds for side in sides)
    drawn = min(len(side.people if seeds else side.groups) for side in sides)
    if not seeds and len({tuple(map(_whom, side.groups)) for side in sides}) > 1:
        return None  # drawn by groups, people of other groups would be no pairs
    if drawn < 2 or not all(side.named for side in sides):
        return None
    values = [side.resampled(seeds=seeds, side=i) for i, side in enumerate(sides)]
    tail = stats.norm.cdf(stats.t.ppf(0.025, drawn - 1))
    low, high = np.quantile(values[0] - sum(values[1:]), (tail, 1 - tail))
    return float(low), float(high)
