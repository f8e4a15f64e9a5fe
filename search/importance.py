"""Which settings move the loss, alone and in pairs, and how: functional ANOVA, with intervals.

Shares are those of fANOVA (Hutter, Hoos, Leyton-Brown 2014): how much of the loss' variance over
the searched ranges a setting explains by itself, or a pair beyond its two. `search.forest` takes
forests apart; here they are grown, anew for each draw of trials and each shuffle of losses.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search.forest import Cells, Effects, grow
from search.parameter import Parameter
from search.plot_style import loss_limits
from search.results import judged, param_values
from search.space import Space

FEW_TRIALS = 40
"""Trials below which shares mostly show chance."""
FEWEST_TRIALS = 8
"""Trials below which no share is worth naming."""
MOST_TRIALS = 400
"""What a forest sees of longer studies, drawn evenly: more trials cost time and move little."""
RESAMPLES = 20
TREES, TREES_A_DRAW = 32, 5
"""Of the forest of all trials, and of each that is grown anew for an interval."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """How much settings matter, most first: each alone, or pairs of them together."""

    table: pd.DataFrame
    """Columns ``setting`` (or ``first`` and ``second``), ``share`` (0 to 1), ``low`` and ``high``
    (90 % bootstrap interval), ``trials`` (that have the setting), ``clear``: whether the whole
    interval lies above what chance gives."""
    chance: float
    """What 9 in 10 shares (of pairs: the largest one) stay below when the losses are shuffled."""
    trials: int
    """COMPLETE and PRUNED trials that it rests on."""
    pruned: int
    """How many of these were pruned."""
    warning: str = ""
    """Why not to lean on it, in a sentence or two; empty where there is enough to go by."""

    @property
    def clear(self) -> list[str]:
        """Settings whose whole interval lies above what chance gives."""
        return [str(name) for name in self.table["setting"][self.table["clear"]]]


def importance(
    frame: pd.DataFrame, space: Space, *, resamples: int = RESAMPLES, seed: int = 0
) -> Importance:
    """Share of the loss' variation that each searched setting explains by itself.

    Log ranges count evenly in the logarithm, as they were searched. Losses above the range that the
    figures show are set to its end: one diverged trial must not decide. A setting that only some
    trials have (a conditional one) is weighed among these. What is left to 1 is interactions.

    Args:
        frame: `search.results.trials_frame`; of it `search.results.judged` counts.
        space: What was searched.
        resamples: Draws of the bootstrap; half as many shuffle the losses.
        seed: Of forest and resampling; equal seeds give equal shares.

    Raises:
        ValueError: With fewer than 8 such trials.
    """
    groups = _groups(frame, space, resamples, seed)
    rows, chance = [], []
    for group in groups:
        for index in group.own:
            share, low, high = group.interval(group.alone[:, index])
            name, trials = group.sample.cells.rows[index].name, group.sample.trials
            rows.append({"setting": name, "share": share, "low": low, "high": high,
                         "trials": trials})  # fmt: skip
            chance += [one.alone[index] for one in group.shuffled]
    columns = ["setting", "share", "low", "high", "trials"]
    return _weighed(pd.DataFrame(rows, columns=columns), chance, frame)


def interactions(
    frame: pd.DataFrame, space: Space, *, resamples: int = RESAMPLES, seed: int = 0
) -> Importance:
    """Share that each pair of settings explains together, beyond what each explains by itself.

    Args:
        frame: As for `importance`.
        space: As for `importance`.
        resamples: As for `importance`.
        seed: As for `importance`.

    Raises:
        ValueError: As `importance`.
    """
    rows, chance = [], [0.0] * (resamples // 2)
    for group in _groups(frame, space, resamples, seed):
        names = [row.name for row in group.sample.cells.rows]
        for i, j in itertools.combinations(range(len(names)), 2):
            if not {i, j} & set(group.own):
                continue
            share, low, high = group.interval(group.together[:, i, j])
            rows.append({"first": names[i], "second": names[j], "share": share, "low": low,
                         "high": high, "trials": group.sample.trials})  # fmt: skip
            largest = (float(one.together[i, j]) for one in group.shuffled)
            chance = [max(pair) for pair in zip(chance, largest, strict=True)]
    columns = ["first", "second", "share", "low", "high", "trials"]
    return _weighed(pd.DataFrame(rows, columns=columns), chance, frame)


def marginal_effects(
    frame: pd.DataFrame, space: Space, *, resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """The loss to expect of each value of each setting, all others varied as they were searched.

    Args:
        frame: As for `importance`.
        space: As for `importance`.
        resamples: As for `importance`.
        seed: As for `importance`.

    Returns:
        Columns ``setting``, ``value`` (of a wide range: the middle of a part of it), ``loss``,
        ``low`` and ``high`` (90 % bootstrap interval), ``trials`` (with such a value).

    Raises:
        ValueError: As `importance`.
    """
    rows = []
    for group in _groups(frame, space, resamples, seed):
        cells, count = group.sample.cells, group.sample.count
        curves = np.array([one.curve for one in (group.whole, *group.drawn)])
        for index in group.own:
            own = np.flatnonzero(cells.owner == index)
            for cell, value in zip(own, cells.values[index], strict=True):
                loss, low, high = group.interval(curves[:, cell])
                rows.append({"setting": cells.rows[index].name, "value": value, "loss": loss,
                             "low": low, "high": high, "trials": int(count[cell])})  # fmt: skip
    return pd.DataFrame(rows, columns=["setting", "value", "loss", "low", "high", "trials"])


def pair_effect(
    frame: pd.DataFrame, space: Space, first: str, second: str, *, seed: int = 0
) -> pd.DataFrame:
    """The loss to expect of each pair of values of two settings, all others varied.

    Args:
        frame: As for `importance`.
        space: As for `importance`.
        first: A setting's name.
        second: Another's.
        seed: As for `importance`.

    Returns:
        Losses; one row a value of ``first``, one column a value of ``second``.

    Raises:
        ValueError: As `importance`, or if no trials vary both settings.
    """
    for group in _groups(frame, space, RESAMPLES, seed):
        names = [row.name for row in group.sample.cells.rows]
        if {first, second} <= set(names) and {first, second} & {names[i] for i in group.own}:
            cells = group.sample.cells
            i, j = names.index(first), names.index(second)
            block = group.whole.surface[np.ix_(cells.owner == i, cells.owner == j)]
            index, columns = (
                pd.Index(cells.values[i], name=first),
                pd.Index(cells.values[j], name=second),
            )
            return pd.DataFrame(block, index=index, columns=columns)
    raise ValueError(f"no trials of this study vary {first} and {second} together")


@dataclass(frozen=True)
class _Sample:
    """Trials as forests see them; equal ones have equal keys."""

    key: str
    cells: Cells = field(compare=False)
    features: Floats = field(compare=False)
    losses: Floats = field(compare=False)
    count: NDArray[np.int_] = field(compare=False)
    """Trials in each cell, ``[C]``, those left out by `MOST_TRIALS` included."""
    trials: int = field(compare=False)


@dataclass(frozen=True)
class _Group:
    """Trials that have the same settings, and the forests grown of them."""

    sample: _Sample
    own: tuple[int, ...]
    """Indices of the settings that just these trials have."""
    whole: Effects
    drawn: tuple[Effects, ...]
    shuffled: tuple[Effects, ...]

    @property
    def alone(self) -> Floats:
        return np.array([one.alone for one in (self.whole, *self.drawn)])

    @property
    def together(self) -> Floats:
        return np.array([one.together for one in (self.whole, *self.drawn)])

    @staticmethod
    def interval(values: Floats) -> tuple[float, float, float]:
        """The first value, and 90 % of the others around it."""
        first, drawn = float(values[0]), values[1:]
        low, high = np.quantile(drawn, [0.05, 0.95]) if len(drawn) else (first, first)
        return first, min(first, float(low)), max(first, float(high))


def _groups(frame: pd.DataFrame, space: Space, resamples: int, seed: int) -> list[_Group]:
    """All trials with the settings that every one has; then those with each conditional setting."""
    done = judged(frame)
    if len(done) < FEWEST_TRIALS:
        raise ValueError(
            f"importance needs at least {FEWEST_TRIALS} COMPLETE or PRUNED trials, found "
            f"{len(done)}: search on"
        )
    done = done.assign(loss=done["loss"].clip(upper=loss_limits(done["loss"])[1]))
    varied = [row for row in space.rows if param_values(done, row.name).nunique() > 1]
    having: dict[bytes, list[Parameter]] = {np.full(len(done), True).tobytes(): []}
    for row in varied:
        mask = param_values(done, row.name).notna().to_numpy().tobytes()
        having.setdefault(mask, []).append(row)
    groups = []
    for mask, own in having.items():
        part = done[np.frombuffer(mask, dtype=bool)]
        rows = [row for row in varied if param_values(part, row.name).notna().all()]
        if own and len(part) >= FEWEST_TRIALS:
            sample = _sample(part, rows)
            forests = _forests_of(sample, resamples, seed)
            groups.append(_Group(sample, tuple(rows.index(row) for row in own), *forests))
    return groups


def _sample(part: pd.DataFrame, rows: Sequence[Parameter]) -> _Sample:
    cells = Cells(rows)
    features, losses = cells.encode(part), part["loss"].to_numpy(dtype=float)
    told = repr(rows).encode(), features.tobytes(), losses.tobytes()
    key = hashlib.sha256(b"|".join(told)).hexdigest()
    count = cells.count(features)
    if len(losses) > MOST_TRIALS:
        seen = np.random.default_rng(0).choice(len(losses), MOST_TRIALS, replace=False)
        features, losses = features[seen], losses[seen]
    return _Sample(key, cells, features, losses, count, len(part))


_growing = threading.Lock()
"""Held while forests grow: figures of the same trials then share them."""
Forests = tuple[Effects, tuple[Effects, ...], tuple[Effects, ...]]


def _forests_of(sample: _Sample, resamples: int, seed: int) -> Forests:
    with _growing:
        return _grown(sample, resamples, seed)


@functools.lru_cache(maxsize=8)
def _grown(sample: _Sample, resamples: int, seed: int) -> Forests:
    """A forest of all trials, some of trials drawn with replacement, some of shuffled losses."""
    cells, features, losses = sample.cells, sample.features, sample.losses
    draw = np.random.default_rng(seed)
    picks = [draw.integers(len(losses), size=len(losses)) for _ in range(resamples)]
    orders = [draw.permutation(losses) for _ in range(resamples // 2)]
    one = functools.partial(grow, cells, trees=TREES_A_DRAW, seed=seed)
    return (
        grow(cells, features, losses, trees=TREES, seed=seed),
        tuple(one(features[pick], losses[pick]) for pick in picks),
        tuple(one(features, order) for order in orders),
    )


def _weighed(table: pd.DataFrame, chance: Sequence[float], frame: pd.DataFrame) -> Importance:
    limit = float(np.quantile(chance, 0.9)) if len(chance) else 0.0
    table = table.sort_values("share", ascending=False, ignore_index=True, kind="stable")
    table["clear"] = table["low"] > limit
    done = judged(frame)
    pruned = int((done["state"] == "PRUNED").sum())
    return Importance(table, limit, len(done), pruned, _warning(len(done), pruned))


def _warning(trials: int, pruned: int) -> str:
    told = []
    if trials < FEW_TRIALS:
        told.append(
            f"{trials} trials are too few to rank settings: below {FEW_TRIALS} the shares are "
            "mostly chance."
        )
    if pruned:
        told.append(
            f"{pruned} of {trials} trials were pruned and count with the least loss that they "
            "reached: settings that start slowly look worse than they may end."
        )
    return " ".join(told)
