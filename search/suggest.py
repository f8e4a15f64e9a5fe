"""Hyperopt's algorithms on our trials: encode, decode, history, pending trials.

What the algorithms learn from a trial:

* COMPLETE trials come first, by loss; then PRUNED ones, further steps before fewer, then by their
  latest loss. Algorithms look at the order only, so each trial gets its place as its loss.
* WAITING and RUNNING trials count as not good (an infinite loss), so that parallel workers are sent
  elsewhere.
* A trial that failed with a NaN loss counts as not good; other failures say nothing about the
  parameters and are left out, like CANCELLED trials.
* Of long histories the best `HISTORY_BEST` and the latest `HISTORY_LATEST` trials are used.

Asked for one trial after the other, without pruning, below the history cap, and as long as no point
comes up twice, the suggestions are those of `hyperopt.fmin` with the same seed.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from hyperopt import anneal, rand, tpe
from hyperopt.base import JOB_STATE_DONE, STATUS_OK, Domain, Trials, trials_from_docs
from hyperopt.pyll import as_apply, scope

from search.grid import grid
from search.parameter import Parameter, did_you_mean
from search.space import Space
from trials.store import NewTrial
from trials.trial import FailureKind, Trial, TrialState

ALGORITHMS = ("tpe", "random", "anneal", "grid")
STARTUP_TRIALS = 20
"""Trials that must have ended before TPE takes over from random draws (Hyperopt's default)."""
HISTORY_BEST = 100
HISTORY_LATEST = 400
DUPLICATE_TRIES = 5
"""New proposals in place of one that was tried before; half of them random."""
_GAMMA = 0.25
"""TPE's good trials are the best ``gamma * sqrt(n)`` (Hyperopt's default)."""

Raw = Mapping[str, float]
"""What Hyperopt draws for the active rows: choices as indices, whole numbers as floats."""


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


_NOT_GOOD = (2.0,)


def _merit(trial: Trial) -> tuple[float, ...] | None:
    """Sort key of what a trial teaches, the best first; None where it teaches nothing."""
    if trial.state is TrialState.COMPLETE and trial.loss is not None and math.isfinite(trial.loss):
        return (0.0, trial.loss)
    if trial.state is TrialState.PRUNED and trial.reports:
        last = trial.reports[-1]
        return (1.0, -last.step, last.loss) if math.isfinite(last.loss) else _NOT_GOOD
    if trial.state is TrialState.FAILED:
        nan = trial.failures and trial.failures[-1].kind is FailureKind.NAN_LOSS
        return _NOT_GOOD if nan else None
    return None if trial.state is TrialState.CANCELLED else _NOT_GOOD


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is remembered of a trial between two suggestions."""

    trial: Trial | None
    number: int
    raw: Raw | None
    """None where the space cannot express the trial's params (enqueued ones)."""
    merit: tuple[float, ...] | None
    params_key: str

    @property
    def has_ended(self) -> bool:
        return self.trial is not None and self.trial.state.is_finished


def _key(params: Mapping[str, Any]) -> str:
    return repr(sorted(params.items()))


def _history(entries: Sequence[_Entry]) -> tuple[list[_Entry], float]:
    """The entries to learn from, by number, and the gamma that keeps TPE's count of good ones."""
    usable = [entry for entry in entries if entry.raw is not None and entry.merit is not None]
    if len(usable) <= HISTORY_BEST + HISTORY_LATEST:
        return usable, _GAMMA
    older, latest = usable[:-HISTORY_LATEST], usable[-HISTORY_LATEST:]
    best = heapq.nsmallest(HISTORY_BEST, older, key=lambda entry: entry.merit or _NOT_GOOD)
    kept = sorted(best, key=lambda entry: entry.number) + latest
    return kept, _GAMMA * math.sqrt(len(usable) / len(kept))


def _documents(entries: Sequence[_Entry], names: Sequence[str]) -> Trials:
    """Entries as Hyperopt's trials; places stand for losses, equal ones share a place."""
    ranked = sorted({entry.merit or _NOT_GOOD for entry in entries})
    places = {merit: float(place) for place, merit in enumerate(ranked)} | {_NOT_GOOD: math.inf}
    documents = []
    for entry in entries:
        raw, number = entry.raw or {}, entry.number
        misc = {
            "tid": number,
            "idxs": {name: [number] if name in raw else [] for name in names},
            "vals": {name: [raw[name]] if name in raw else [] for name in names},
        }
        result = {"status": STATUS_OK, "loss": places[entry.merit or _NOT_GOOD]}
        documents.append(
            {"tid": number, "state": JOB_STATE_DONE, "spec": None, "misc": misc, "result": result}
        )
    return trials_from_docs(documents, validate=False)


class Suggester:
    """Proposes trials for one study.

    Args:
        space: What is searched.
        algorithm: ``tpe``, ``random``, ``anneal``, or ``grid`` (the first point that was not
            tried; after the last one it starts again).
        seed: Seed of the study. Trial ``n`` uses the seed's draw ``n``, so a restarted search goes
            on as it would have.
        fixed: Params that every trial shares, beside ``space.fixed``.

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
        self._grid = grid(space) if algorithm == "grid" else []
        self._points = iter(self._grid)
        self._draws: list[int] = []
        self._entries: dict[int, _Entry] = {}

    def suggest(self, trials: Sequence[Trial], count: int) -> list[NewTrial]:
        """Propose the next ``count`` trials.

        Args:
            trials: All trials of the study, by number, with their reports.
            count: How many to propose; they get the numbers after the last one's.
        """
        entries = [self._entry(trial) for trial in trials]
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
            entries.append(_Entry(None, number, raw, _NOT_GOOD, _key(params)))
            tried.add(entries[-1].params_key)
        return proposals

    def _entry(self, trial: Trial) -> _Entry:
        known = self._entries.get(trial.number)
        if known is None or known.trial is not trial:
            if known is not None:
                raw = known.raw  # params never change
            else:
                raw = trial.suggestion.get("raw") or self._encode(trial.params)
            known = _Entry(trial, trial.number, raw, _merit(trial), _key(trial.params))
            self._entries[trial.number] = known
        return known

    def _encode(self, params: Mapping[str, Any]) -> Raw | None:
        sampled = self._space.sampled(params)
        return None if sampled is None else encode(self._space, sampled)

    def _params(self, raw: Raw) -> dict[str, Any]:
        return {**self._space.complete(decode(self._space, raw)), **self._fixed}

    def _draw(self, number: int) -> int:
        """`fmin` draws once per trial; a restart draws again up to the number it needs."""
        while len(self._draws) <= number:
            self._draws.append(int(self._rng.integers(2**31 - 1)))
        return self._draws[number]

    def _propose(
        self, number: int, entries: Sequence[_Entry], tried: Container[str]
    ) -> tuple[str, Raw]:
        """Origin and raw draws of a new trial, other than all before where that can be had."""
        if self._grid:
            return "grid", self._next_point(tried)
        ended = (entry for entry in entries if entry.has_ended and entry.merit is not None)
        started = sum(1 for _ in islice(ended, STARTUP_TRIALS))
        algorithm = self._algorithm
        if algorithm == "tpe" and started < STARTUP_TRIALS:
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

    def _next_point(self, tried: Container[str]) -> Raw:
        """Raw draws of the grid's next point; what was tried never gets untried."""
        for point in self._points:
            if _key(self._params(raw := encode(self._space, point))) not in tried:
                return raw
        self._points = iter(self._grid)
        return encode(self._space, next(self._points))

    def _ask(self, algorithm: str, number: int, entries: Sequence[_Entry], seed: int) -> Raw:
        history, gamma = _history(entries)
        asked = {
            "random": rand.suggest,
            "tpe": partial(tpe.suggest, gamma=gamma, n_startup_jobs=STARTUP_TRIALS, verbose=False),
            "anneal": anneal.suggest,
        }[algorithm]
        names = [row.name for row in self._space.rows]
        documents = _documents(history if algorithm != "random" else [], names)
        # Far from all observations Hyperopt takes the logarithm of a density of 0: -inf is meant.
        with np.errstate(divide="ignore", invalid="ignore"):
            (proposal,) = asked([number], self._domain, documents, seed)
        return {name: float(drawn[0]) for name, drawn in proposal["misc"]["vals"].items() if drawn}
