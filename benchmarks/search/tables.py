"""What the courses say: the tables of README.md and the figure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from scipy.stats import wilcoxon

from benchmarks.search import problems
from benchmarks.search.record import SETS
from search.plot_style import styled
from search.plots import save_figure

HERE = Path(__file__).parent
NAMES = {
    "random": "random search",
    "fmin": "Hyperopt's fmin",
    "optuna": "Optuna's TPE",
    "ours-1": "larnn-search, 1 worker",
    "ours-8": "larnn-search, 8 workers",
    "asha-1": "with asha, 1 worker",
    "asha-8": "with asha, 8 workers",
}
COLORS = {
    "random": "#999999",
    "fmin": "#E69F00",
    "optuna": "#009E73",
    "ours-1": "#56B4E9",
    "ours-8": "#0072B2",
    "asha-1": "#CC79A7",
    "asha-8": "#D55E00",
}
PRUNED = ("asha-1", "asha-8")
REACHING = ("fmin", "ours-1", "asha-1", "ours-8", "asha-8")
BUDGETS = (30, 50, 100)


def write_tables(courses: Path, trials: int) -> None:
    """Put the tables between the marks in README.md, and draw the figure beside it."""
    frame = pd.read_csv(courses)
    tables = [_best(frame), _epochs(frame)]
    if {"fmin", "ours-8"} <= set(frame["contender"]):
        tables.insert(1, _against_fmin(frame))
    told = "\n\n".join([_versions(frame), *tables])
    readme = HERE / "README.md"
    marked = re.compile(r"(?<=<!-- tables -->\n).*(?=\n<!-- end -->)", re.DOTALL)
    readme.write_text(marked.sub(lambda _: told, readme.read_text(encoding="utf-8")))
    save_figure(draw(frame, trials), HERE / "compare.png")


def _versions(frame: pd.DataFrame) -> str:
    made_by = ("hyperopt", "optuna", "scikit-learn", "numpy")
    told = ", ".join(f"{name} {version(name)}" for name in made_by)
    last = frame.groupby(frame["contender"].isin(PRUNED))["seed"].max()
    return f"Seeds 0 to {last[False]}, with asha 0 to {last[True]}; {told}."


def best_after(
    frame: pd.DataFrame, budget: float, by: str = "trials"
) -> dict[str, dict[str, pd.Series[float]]]:
    """Least loss within a budget by problem and contender, each a series over seeds."""
    found: dict[str, dict[str, pd.Series[float]]] = defaultdict(dict)
    for (problem, contender), of in frame[frame[by] <= budget].groupby(["problem", "contender"]):
        found[str(problem)][str(contender)] = of.groupby("seed")["best"].min()
    return found


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ruler, *rows))


def _best(frame: pd.DataFrame) -> str:
    best = best_after(frame, 100)
    rows = []
    for name in _problems(frame):
        cells = [best[name][c] for c in NAMES if c in best[name] and not c.startswith("asha")]
        shown = (
            f"{c.median():.4g} ({c.quantile(0.25):.4g} to {c.quantile(0.75):.4g})" for c in cells
        )
        rows.append([name, *shown])
    head = ["best loss after 100 trials", *(NAMES[c] for c in NAMES if not c.startswith("asha"))]
    return _markdown(head, rows)


def _against_fmin(frame: pd.DataFrame) -> str:
    """How often 8 workers are better than the serial search, and the chance that they are worse."""
    rows = []
    for name in [*_problems(frame), "all"]:
        row = [name]
        for budget in BUDGETS:
            best = best_after(frame, budget)
            names = _problems(frame) if name == "all" else [name]
            shares = [_better(best[n]["ours-8"], best[n]["fmin"]) for n in names]
            share = np.concatenate(shares)
            low, high = _interval(share)
            row.append(f"{share.mean():.2f} ({low:.2f} to {high:.2f})")
            if name == "all":
                row.append("")
            else:
                ours, theirs = best[name]["ours-8"].align(best[name]["fmin"], join="inner")
                row.append(f"{wilcoxon(ours - theirs, alternative='greater').pvalue:.2f}")
        rows.append(row)
    head = ["8 workers against fmin"]
    for budget in BUDGETS:
        head += [f"better, {budget} trials", "p (worse)"]
    return _markdown(head, rows)


def _better(ours: pd.Series[float], theirs: pd.Series[float]) -> np.ndarray:
    """1 where ours is better, a half where equal, by seed."""
    ours, theirs = ours.align(theirs, join="inner")
    return ((ours < theirs) + 0.5 * (ours == theirs)).to_numpy()


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Bootstrap, 95 %, of the mean."""
    draws = np.random.default_rng(0).choice(values, (4000, len(values))).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _epochs(frame: pd.DataFrame) -> str:
    """Epochs until random search's typical best is reached, as a share of what that took.

    Of the seeds that all of them have, so that what pruning adds can be read off.
    """
    rows = []
    for name in _problems(frame):
        if name not in SETS:
            continue
        courses = dict(list(frame[frame["problem"] == name].groupby("contender")))
        shared = set.intersection(*(set(of["seed"]) for of in courses.values()))
        courses = {c: of[of["seed"].isin(shared)] for c, of in courses.items()}
        budget = int(courses["random"]["epochs"].max())
        target = float(courses["random"].groupby("seed")["best"].min().median())
        row = [name, f"{target:.4g}"]
        for of in (courses[contender] for contender in REACHING):
            reached = of[of["best"] <= target].groupby("seed")["epochs"].min()
            shares = reached.reindex(of["seed"].unique(), fill_value=np.inf) / budget
            low, middle, high = np.quantile(shares, [0.25, 0.5, 0.75], method="nearest")
            row.append(f"{middle:.2f} ({low:.2f} to {high:.2f})".replace("inf", "never"))
        rows.append(row)
    columns = (NAMES[c] for c in REACHING)
    return _markdown(["share of random search's epochs to its best", "best", *columns], rows)


def _problems(frame: pd.DataFrame) -> list[str]:
    return [name for name in problems.NAMES if name in set(frame["problem"])]


# -- the figure ------------------------------------------------------------------------------------


@styled
def draw(frame: pd.DataFrame, trials: int) -> Figure:
    """Median and quartiles over seeds: all problems by trials, those with epochs also by epochs."""
    names = _problems(frame)
    sets = [name for name in names if name in SETS]
    figure = Figure(figsize=(12.0, 10.5))
    FigureCanvasAgg(figure)
    grid = figure.subplots(3, 3, squeeze=False)
    whole = [c for c in NAMES if not c.startswith("asha")]
    for axes, name in zip(grid.flat, names, strict=False):
        _panel(axes, frame[frame["problem"] == name], whole, "trials", trials)
        axes.set_title(name)
    for axes, name in zip(grid[2], sets, strict=False):
        of = frame[frame["problem"] == name]
        shown = ["random", "fmin", "asha-1", "asha-8"]
        _panel(axes, of, shown, "epochs", int(of["epochs"].max()))
        axes.set_title(f"{name}, pruned")
    handles = {line.get_label(): line for axes in grid.flat for line in axes.get_lines()}
    told = f"lines: median, shades: quartiles of {_seeds(frame, whole)} seeds"
    if any(c in set(frame["contender"]) for c in PRUNED):
        told += f" ({_seeds(frame, PRUNED)} of the pruned searches)"
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, title=told)
    return figure


def _seeds(frame: pd.DataFrame, contenders: Sequence[str]) -> int:
    return int(frame["seed"][frame["contender"].isin(contenders)].nunique())


def _panel(
    axes: Axes, frame: pd.DataFrame, contenders: Iterable[str], by: str, budget: int
) -> None:
    steps = np.unique(np.linspace(budget / 20, budget, 60).astype(int))
    least = problems.MINIMA.get(frame["problem"].iloc[0])
    for contender in contenders:
        of = frame[frame["contender"] == contender]
        if of.empty:
            continue
        end = of[by].max()
        shown = steps[steps <= end]
        losses = np.array([_course(one, by, shown) for _, one in of.groupby("seed")])
        low, middle, high = np.quantile(
            losses - (least or 0.0), [0.25, 0.5, 0.75], axis=0, method="nearest"
        )
        color = COLORS[contender]
        axes.plot(shown, middle, color=color, lw=1.8, label=NAMES[contender])
        axes.fill_between(shown, low, high, color=color, alpha=0.12, lw=0)
    low, high = axes.get_ylim()
    if low <= 0 or high > 10 * low:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(_minor_label))
    axes.set_xlabel(by)
    axes.set_ylabel("best loss above the minimum" if least else "best validation loss")


def _minor_label(value: float, _: int | None) -> str:
    """Twos and fives only, so that labels do not crowd."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


def _course(one: pd.DataFrame, by: str, steps: np.ndarray) -> np.ndarray:
    """Best loss of one search after each of ``steps``; infinite before its first trial ended."""
    at = np.searchsorted(one[by].to_numpy(), steps, side="right")
    return np.concatenate([[np.inf], one["best"].to_numpy()])[at]
