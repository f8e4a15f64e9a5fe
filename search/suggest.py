"""Hyperopt's algorithms on our trials: encode, decode, propose. What they learn: `search.history`.

Asked for one trial after the other, without pruning and other studies, below the history cap, and
as long as no point comes up twice, the suggestions are those of `hyperopt.fmin` with the same seed.
Otherwise TPE takes more trials for good ones: `PARALLEL_GAMMA`.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from hyperopt import anneal, rand, tpe
from hyperopt.base import JOB_STATE_DONE, STATUS_OK, Domain, Trials, trials_from_docs
from hyperopt.pyll import as_apply, scope

from model.words import did_you_mean
from search.grid import Grid
from search.history import (
    ALGORITHMS,
    NOT_GOOD,
    Entry,
    Raw,
    in_common,
    merit_of,
    places,
    shortened,
)
from search.parameter import Parameter
from search.space import Space
from trials.store import NewTrial
from trials.trial import Trial, TrialState

STARTUP_TRIALS = 20
"""Random draws before TPE takes over (Hyperopt's default)."""
STARTUP_ENDED = 10
"""Trials that must have ended by then, however many workers there are."""
DUPLICATE_TRIES = 5
"""New proposals in place of one that was tried before; half of them random."""
GAMMA = 0.25
"""TPE's good trials are the best ``gamma * sqrt(n)`` (Hyperopt's default)."""
PARALLEL_GAMMA = 1.0
"""The same beside running trials: these count as not good though most lie where good ones do, and
would outweigh three good ones of a hundred (`benchmarks/search/README.md`)."""


def hyperopt_space(space: Space, fixed: Mapping[str, Any] | None = None) -> Any:
    """The space as a Hyperopt expression that yields a trial's params.

    ``hyperopt.fmin(objective, hyperopt_space(space), algo=tpe.suggest, ...)`` calls an objective
    with the same params as the service does.

    Args:
        space: What is searched.
        fixed: Params that every trial shares, beside ``space.fixed``.
    """
    nodes = {row.name: _node(row) for row in space.rows}
    absent = as_apply(...)  # an inactive row's place; `_trial_params` drops it
    raw = {}
    for row in space.rows:
        node = nodes[row.name]
        for parent, wanted in reversed(space.conditions(row).items()):
            branches = [absent] * len(space[parent].choices)
            branches[_index(space[parent], wanted)] = node
            node = scope.switch(nodes[parent], *branches)
        raw[row.name] = node
    return scope.larnn_trial_params(raw, partial(_trial_params, space, dict(fixed or {})))


@scope.define  # type: ignore[untyped-decorator]  # Hyperopt is untyped
def larnn_trial_params(raw: dict[str, Any], decode: Any) -> dict[str, Any]:
    """Last node of the expression: raw draws to params."""
    params: dict[str, Any] = decode(raw)
    return params


def _trial_params(space: Space, fixed: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    active = {name: value for name, value in raw.items() if value is not ...}
    return {**space.complete(decode(space, active)), **fixed}


def _node(row: Parameter) -> Any:
    if row.kind == "choice":
        return scope.hyperopt_param(row.name, scope.randint(len(row.choices)))
    low, high = row.bounds
    if row.is_integer:  # half a step more on both sides: the ends are as likely as the others
        low, high = low - 0.5, high + 0.5
    ends = (math.log(low), math.log(high)) if row.is_log else (low, high)
    draws = {
        "uniform": scope.uniform,
        "loguniform": scope.loguniform,
        "int": partial(scope.quniform, q=1.0),
        "logint": partial(scope.qloguniform, q=1.0),
    }
    return scope.float(scope.hyperopt_param(row.name, draws[row.kind](*ends)))


def _can_draw(row: Parameter, drawn: object) -> bool:
    """Whether Hyperopt may draw this for a row: what comes from the database may be anything."""
    if isinstance(drawn, bool) or not isinstance(drawn, (int, float)):
        return False
    if row.kind == "choice":
        return drawn in range(len(row.choices))
    low, high = row.bounds
    # A draw exactly on the half step rounds out of the range.
    return low - 1 <= drawn <= high + 1 if row.is_integer else row.contains(drawn)


def _index(row: Parameter, value: Any) -> int:
    """Position of a choice, by type and value (True is not 1)."""
    return [(type(known), known) for known in row.choices].index((type(value), value))


def decode(space: Space, raw: Raw) -> dict[str, Any]:
    """Raw draws to sampled values, in the order of the space's rows."""
    values: dict[str, Any] = {}
    for row in space.rows:
        if row.name not in raw:
            continue
        drawn = raw[row.name]
        if row.kind == "choice":
            values[row.name] = row.choices[int(drawn)]
        elif row.is_integer:
            low, high = row.bounds
            # A draw exactly on the half step rounds out of the range.
            values[row.name] = min(max(round(drawn), int(low)), int(high))
        else:
            values[row.name] = float(drawn)
    return values


def encode(space: Space, sampled: Mapping[str, Any]) -> dict[str, float]:
    """Sampled values to raw draws; the inverse of `decode`."""
    return {
        name: _index(space[name], value) if space[name].kind == "choice" else float(value)
        for name, value in sampled.items()
    }


def _key(params: Mapping[str, Any]) -> str:
    return repr(sorted(params.items()))


def _misc(entry: Entry, names: Sequence[str]) -> dict[str, Any]:
    """What a trial drew, as Hyperopt keeps it."""
    raw, here, nowhere = entry.raw or {}, [entry.number], list[int]()
    return {
        "tid": entry.number,
        "idxs": {name: here if name in raw else nowhere for name in names},
        "vals": {name: [raw[name]] if name in raw else [] for name in names},
    }


def _document(misc: Mapping[str, Any], place: float) -> dict[str, Any]:
    """A trial as Hyperopt keeps it; its place stands for its loss."""
    result = {"status": STATUS_OK, "loss": place}
    number = misc["tid"]
    return {"tid": number, "state": JOB_STATE_DONE, "spec": None, "misc": misc, "result": result}


def _has_started(entries: Iterable[Entry]) -> bool:
    """Whether there is enough to learn from; looks no further than it must."""
    teaching = (entry.has_ended for entry in entries if entry.teaches)
    first = list(islice(teaching, STARTUP_TRIALS))
    if len(first) < STARTUP_TRIALS:
        return False
    return sum(first) >= STARTUP_ENDED or sum(first) + sum(teaching) >= STARTUP_ENDED


def _is_serial(entry: Entry) -> bool:
    """Whether `hyperopt.fmin` would have met it as it is."""
    if entry.study or entry.trial is None:
        return False
    return entry.has_ended and entry.trial.state is not TrialState.PRUNED


class Suggester:
    """Proposes trials for one study.

    Args:
        space: What is searched.
        algorithm: ``tpe``, ``random``, ``anneal``, or ``grid`` (the first point that was not
            tried; after the last one those whose trials were cancelled, then all again).
        seed: Seed of the study. Trial ``n`` uses the seed's draw ``n``, so a restarted search goes
            on as it would have.
        fixed: Params that every trial shares, beside ``space.fixed``.
        others: Finished trials of other studies to learn from, with reports.

    Raises:
        ValueError: For an unknown algorithm, a space with nothing to search, or a grid over
            infinitely many values.
    """

    def __init__(
        self,
        space: Space,
        algorithm: str = "tpe",
        seed: int = 0,
        fixed: Mapping[str, Any] | None = None,
        others: Sequence[Trial] = (),
    ) -> None:
        if algorithm not in ALGORITHMS:
            raise ValueError(
                f"unknown algorithm {algorithm!r}; {did_you_mean(algorithm, ALGORITHMS)}"
            )
        if not space.rows:
            raise ValueError(f"space {space.name!r} searches nothing: every parameter is fixed")
        self._space = space
        self._algorithm = algorithm
        self._fixed = dict(fixed or {})
        self._domain = Domain(lambda params: params, hyperopt_space(space, self._fixed))
        self._rng = np.random.default_rng(seed)
        self._grid = Grid(space, self._key_of) if algorithm == "grid" else None
        self._draws: list[int] = []
        self._entries: dict[int, Entry] = {}
        self._miscs: dict[int, tuple[Raw | None, dict[str, Any]]] = {}
        """Of the latest history, by number."""
        self._others = [
            Entry(trial, number, encode(space, common), merit_of(trial), "", trial.study)
            for number, trial in enumerate(others, start=-len(others))
            if (common := in_common(space, trial.params))
        ]

    def suggest(self, trials: Sequence[Trial], count: int) -> list[NewTrial]:
        """Propose the next ``count`` trials.

        Args:
            trials: All trials of the study, by number, with their reports.
            count: How many to propose; they get the numbers after the last one's.
        """
        known = self._entries
        entries = self._others + [
            # Most are as they were: no call for each of thousands.
            entry if (entry := known.get(t.number)) and entry.trial is t else self._entry(t)
            for t in trials
        ]
        tried = {entry.params_key for entry in entries}
        first = trials[-1].number + 1 if trials else 0
        proposals = []
        for number in range(first, first + count):
            origin, raw = self._propose(number, entries, tried)
            params = self._params(raw)
            suggestion: dict[str, Any] = {"origin": origin, "draw": self._draw(number)}
            if self._space.derive is not None:  # params do not tell what was drawn
                suggestion["raw"] = raw
            proposals.append(NewTrial(params, self._draw(number), suggestion))
            entries.append(Entry(None, number, raw, NOT_GOOD, _key(params)))
            tried.add(entries[-1].params_key)
        return proposals

    def _entry(self, trial: Trial) -> Entry:
        known = self._entries.get(trial.number)
        if known is None or known.trial is not trial:
            key = _key(trial.params)
            if known is not None and known.params_key == key:
                raw = known.raw
            else:  # new, or deleted and made anew under its number
                raw = self._drawn(trial) or self._encode(trial.params)
            known = Entry(trial, trial.number, raw, merit_of(trial), key)
            self._entries[trial.number] = known
        return known

    def _drawn(self, trial: Trial) -> Raw | None:
        """The draws kept with a trial, if this space may have made them."""
        raw = trial.suggestion.get("raw")
        rows = {row.name: row for row in self._space.rows}
        if not raw or not isinstance(raw, Mapping) or not raw.keys() <= rows.keys():
            return None
        return raw if all(_can_draw(rows[name], value) for name, value in raw.items()) else None

    def _encode(self, params: Mapping[str, Any]) -> Raw | None:
        sampled = self._space.sampled(params)
        return None if sampled is None else encode(self._space, sampled)

    def _params(self, raw: Raw) -> dict[str, Any]:
        return {**self._space.complete(decode(self._space, raw)), **self._fixed}

    def _key_of(self, sampled: Mapping[str, Any]) -> str:
        return _key(self._params(encode(self._space, sampled)))

    def _draw(self, number: int) -> int:
        """`fmin` draws once per trial; a restart draws again up to the number it needs."""
        while len(self._draws) <= number:
            self._draws.append(int(self._rng.integers(2**31 - 1)))
        return self._draws[number]

    def _propose(
        self, number: int, entries: Sequence[Entry], tried: Container[str]
    ) -> tuple[str, Raw]:
        """Origin and raw draws of a new trial, other than all before where that can be had."""
        if self._grid:
            return "grid", encode(self._space, self._grid.next_point(entries, tried))
        algorithm = self._algorithm
        if algorithm == "tpe" and not _has_started(entries):
            algorithm = "random"
        seed = self._draw(number)
        raw = self._ask(algorithm, number, entries, seed)
        for attempt in range(1, DUPLICATE_TRIES + 1):
            if _key(self._params(raw)) not in tried:
                break
            if attempt > DUPLICATE_TRIES // 2:
                algorithm = "random"
            again = int(np.random.default_rng([seed, attempt]).integers(2**31 - 1))
            raw = self._ask(algorithm, number, entries, again)
        return algorithm, raw

    def _ask(self, algorithm: str, number: int, entries: Sequence[Entry], seed: int) -> Raw:
        history, whole = shortened(entries)
        gamma = GAMMA if all(map(_is_serial, history)) else PARALLEL_GAMMA
        # A shortened history has as many good trials as the whole one.
        gamma *= math.sqrt(whole / max(1, len(history)))
        asked = {
            "random": rand.suggest,
            "tpe": partial(tpe.suggest, gamma=gamma, n_startup_jobs=STARTUP_TRIALS, verbose=False),
            "anneal": anneal.suggest,
        }[algorithm]
        documents = self._documents(history if algorithm != "random" else [])
        # Far from all observations Hyperopt takes the logarithm of a density of 0: -inf is meant.
        with np.errstate(divide="ignore", invalid="ignore"):
            (proposal,) = asked([number], self._domain, documents, seed)
        return {name: float(drawn[0]) for name, drawn in proposal["misc"]["vals"].items() if drawn}

    def _documents(self, entries: Sequence[Entry]) -> Trials:
        """Entries as Hyperopt's trials."""
        names = [row.name for row in self._space.rows]
        # Made anew each time, they cost a fifth of a suggestion at 10,000 trials, mostly for the
        # garbage collector, which looks at all trials there are.
        known, self._miscs = self._miscs, {}
        documents = []
        for entry, place in zip(entries, places(entries), strict=True):
            kept = known.get(entry.number)
            misc = kept[1] if kept and kept[0] is entry.raw else _misc(entry, names)
            self._miscs[entry.number] = entry.raw, misc
            documents.append(_document(misc, place))
        return trials_from_docs(documents, validate=False)
