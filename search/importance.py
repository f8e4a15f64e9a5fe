"""Which settings move the loss: functional ANOVA of a study's trials, with intervals.

The shares are those of fANOVA (Hutter, Hoos, Leyton-Brown 2014) as Optuna computes them: how much
of the loss' variance over the searched ranges one setting explains by itself. optuna is imported
when it is needed: it belongs to the extra ``analysis``.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search.parameter import Parameter
from search.plot_style import loss_limits
from search.space import Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

Shares = dict[str, float]
METHODS = ("fanova", "ped-anova")
FEW_TRIALS = 40
"""Complete trials below which shares mostly show chance."""
FEWEST_TRIALS = 8
"""Complete trials below which no share is worth naming."""
TREES, DEPTH = 16, 6
"""Of the forest: small, since it is grown anew for each draw."""


@dataclass(frozen=True)
class Importance:
    """How much each searched setting matters, most first."""

    table: pd.DataFrame
    """Columns ``setting``, ``share`` (0 to 1), ``low`` and ``high`` (90 % bootstrap interval)."""
    chance: float
    """What 9 in 10 shares stay below when the losses are shuffled, so that no setting matters."""
    method: str
    trials: int
    """COMPLETE trials that it rests on."""
    warning: str = ""
    """Why not to lean on it, in one sentence; empty where there is enough to go by."""

    @property
    def clear(self) -> list[str]:
        """Settings whose whole interval lies above what chance gives."""
        return [str(name) for name in self.table["setting"][self.table["low"] > self.chance]]


def importance(
    frame: pd.DataFrame,
    space: Space,
    *,
    method: str = "fanova",
    resamples: int = 24,
    seed: int = 0,
) -> Importance:
    """Share of the loss' variation that each searched setting explains by itself.

    Log ranges count evenly in the logarithm, as they were searched. Losses above the range that the
    figures show are set to its end: one diverged trial must not decide. Settings that only some
    trials have are left out of fANOVA (PED-ANOVA takes them). What is left to 1 is interactions of
    settings.

    Args:
        frame: `search.results.trials_frame`; its COMPLETE trials count.
        space: What was searched.
        method: ``fanova``, or ``ped-anova`` (Watanabe et al. 2023: which settings tell the best
            tenth of trials from the rest).
        resamples: Draws of the bootstrap; half as many shuffle the losses.
        seed: Of forest and resampling; equal seeds give equal shares.

    Raises:
        ValueError: For an unknown method, or fewer than 8 complete trials.
        ModuleNotFoundError: Without optuna; the message says what to install.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    done = frame[(frame["state"] == "COMPLETE") & np.isfinite(frame["loss"])]
    if len(done) < FEWEST_TRIALS:
        raise ValueError(
            f"importance needs at least {FEWEST_TRIALS} COMPLETE trials, found {len(done)}: "
            "search on"
        )
    rows = [row for row in space.rows if _usable(done, row, method)]
    trials = _frozen(done, rows)
    losses = done["loss"].clip(upper=loss_limits(done["loss"])[1]).to_numpy(dtype=float)
    share = _shares(trials, losses, rows, method, seed)
    draw = np.random.default_rng(seed)
    picks = (draw.integers(len(done), size=len(done)) for _ in range(resamples))
    drawn = [_shares([trials[i] for i in pick], losses[pick], rows, method, seed) for pick in picks]
    shuffles = (draw.permutation(losses) for _ in range(resamples // 2))
    shuffled = [_shares(trials, order, rows, method, seed) for order in shuffles]
    chance = [value for one in shuffled for value in one.values()]
    rows_of_table = [
        {
            "setting": name,
            "share": value,
            "low": min(value, float(np.quantile([one[name] for one in drawn], 0.05))),
            "high": max(value, float(np.quantile([one[name] for one in drawn], 0.95))),
        }
        for name, value in share.items()
    ]
    table = pd.DataFrame(rows_of_table, columns=["setting", "share", "low", "high"])
    table = table.sort_values("share", ascending=False, ignore_index=True)
    limit = float(np.quantile(chance, 0.9)) if chance else 0.0
    return Importance(table, limit, method, len(done), _warning(len(done), len(frame)))


def _warning(complete: int, total: int) -> str:
    if complete >= FEW_TRIALS:
        return ""
    return (
        f"{complete} complete trials (of {total}) are too few to rank settings: below {FEW_TRIALS} "
        "the shares are mostly chance"
    )


def _usable(done: pd.DataFrame, row: Parameter, method: str) -> bool:
    """Whether trials say something of a setting: it varies, and fANOVA knows it of every one."""
    if row.name not in done or done[row.name].nunique() < 2:
        return False
    return method == "ped-anova" or bool(done[row.name].notna().all())


def _frozen(done: pd.DataFrame, rows: list[Parameter]) -> list[FrozenTrial]:
    """The trials as Optuna knows them, without their losses."""
    optuna = _optuna()
    distributions = {row.name: _distribution(row) for row in rows}
    trials = []
    for values in done[[row.name for row in rows]].to_dict("records"):
        known = {row.name: _encoded(row, values[row.name]) for row in rows if _has(values, row)}
        kept = {name: distributions[name] for name in known}
        trials.append(optuna.create_trial(params=known, distributions=kept, value=0.0))
    return trials


def _has(values: dict[Any, Any], row: Parameter) -> bool:
    return not pd.isna(values[row.name])


def _distribution(row: Parameter) -> BaseDistribution:
    """A row's range, such that equal lengths were equally likely."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if row.kind == "choice":
        return CategoricalDistribution(row.choices)
    low, high = row.bounds
    if row.is_integer:  # each whole number has a unit of room
        low, high = low - 0.5, high + 0.5
    if row.is_log:
        low, high = float(np.log(low)), float(np.log(high))
    return FloatDistribution(low, high)


def _encoded(row: Parameter, value: Any) -> Any:
    if row.kind == "choice":
        return value.item() if hasattr(value, "item") else value
    return float(np.log(value)) if row.is_log else float(value)


def _shares(
    trials: list[FrozenTrial],
    losses: NDArray[np.float64],
    rows: list[Parameter],
    method: str,
    seed: int,
) -> Shares:
    """Each setting's share on one set of trials; all 0 where no loss differs."""
    optuna = _optuna()
    if np.ptp(losses) == 0:
        return {row.name: 0.0 for row in rows}
    study = optuna.create_study()
    study.add_trials(
        [
            optuna.create_trial(params=t.params, distributions=t.distributions, value=float(loss))
            for t, loss in zip(trials, losses, strict=True)
        ]
    )
    evaluator: Any = optuna.importance.PedAnovaImportanceEvaluator()
    if method == "fanova":
        evaluator = optuna.importance.FanovaImportanceEvaluator(
            n_trees=TREES, max_depth=DEPTH, seed=seed
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found = evaluator.evaluate(study, params=[row.name for row in rows])
    total = 1.0 if method == "fanova" else sum(found.values()) or 1.0
    return {row.name: float(found.get(row.name, 0.0)) / total for row in rows}


def _optuna() -> Any:
    try:
        with warnings.catch_warnings():  # in notebooks, of a progress bar that is not used
            warnings.filterwarnings("ignore", message="IProgress not found")
            import optuna
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "importance needs optuna: pip install 'larnn-search[analysis]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
