"""Figures of a trained LARNN: its attention, its mistakes, its need of memory."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)
from numpy.typing import NDArray

from search.plot_style import WIDTH, literal, new_figure, styled

HEAD_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette; used again from the start for more heads."""
LEAST_SPAN = 0.1
"""Of an axis of accuracies: one sequence among thousands is not made to look like a fall."""
Floats = NDArray[np.float64]


@styled
def attention_maps(
    weights: Floats, signal: Floats, step: float, what: str, unit: str = "s"
) -> Figure:
    """What each step of one sequence attends to, a panel a head, under the signal itself.

    Args:
        weights: One layer's, ``[N, T, K]``, the newest cell last.
        signal: To show above, ``[T]``.
        step: How long a step is.
        what: Names the signal with its unit.
        unit: Of ``step``.
    """
    N, T, K = weights.shape
    figure = Figure(figsize=(WIDTH, 1.9 + 1.5 * N))
    FigureCanvasAgg(figure)
    grid = figure.subplots(N + 1, 1, sharex=True, height_ratios=[1.0, *[1.3] * N])
    end = T * step
    grid[0].plot((np.arange(T) + 0.5) * step, signal, color="#222222", lw=1.3)
    grid[0].set_ylabel(what, fontsize=9)
    top = float(np.quantile(weights, 0.999))
    age = np.arange(1, K + 1)[:, None]
    absent = age > np.arange(1, T + 1)  # before the window is full
    for head, axes in enumerate(grid[1:]):
        axes.set_facecolor("#EEEEEE")
        image = axes.imshow(
            np.where(absent, np.nan, weights[head].T[::-1]),
            aspect="auto",
            origin="lower",
            cmap="magma_r",
            vmin=0,
            vmax=top,
            extent=(0, end, step / 2, (K + 0.5) * step),
            interpolation="nearest",
        )
        axes.set_ylabel(f"head {head + 1}\nlooks back ({unit})", fontsize=9)
        axes.grid(visible=False)
    grid[-1].set_xlabel(f"time in the sequence ({unit})")
    bar = figure.colorbar(image, ax=grid[1:], aspect=30, pad=0.01)
    bar.set_label("attention")
    bar.outline.set_visible(False)
    grid[0].set_title(f"What each step attends to ({N} heads, window {K})")
    return figure


@styled
def attention_by_age(weights: Floats, step: float, unit: str = "s") -> Figure:
    """How far back each head looks, on average over sequences and steps.

    Args:
        weights: One layer's, ``[B, N, T, K]``, the newest cell last; steps whose window is not yet
            full are left out (of a shorter sequence, all but its last), and so are steps of NaN.
        step: How long a step is.
        unit: Of ``step``.
    """
    B, N, _, K = weights.shape
    figure, axes = new_figure()
    age = np.arange(1, K + 1) * step
    real = (one[:, ~np.isnan(one[0, :, -1])] for one in weights)  # [N, steps, K] each
    full = [one[:, min(K, one.shape[1] - 1) :] for one in real]
    mean = np.concatenate(full, axis=1).mean(axis=1)[:, ::-1]  # [N, K], newest first
    for head in range(N):
        color = HEAD_COLORS[head % len(HEAD_COLORS)]
        axes.plot(age, mean[head], "o-", ms=4, color=color, label=f"head {head + 1}")
    axes.axhline(1 / K, color="#888888", ls=":", label="all cells alike")
    axes.set_ylim(0, None)
    axes.set_xlabel(f"age of the cell state ({unit})")
    axes.set_ylabel("mean attention")
    axes.set_title(f"How far back each head looks (n = {B} sequences)")
    figure.legend(loc="outside lower center", ncols=5)
    return figure


@styled
def confusion_matrix(predictions: pd.DataFrame) -> Figure:
    """Counts of true and predicted classes; colour is the share of the true class.

    Args:
        predictions: `search.inside.predictions`.
    """
    names = sorted(set(predictions["truth"]) | set(predictions["predicted"]))
    counts = pd.crosstab(predictions["truth"], predictions["predicted"])
    counts = counts.reindex(index=names, columns=names, fill_value=0)
    share = counts.to_numpy() / np.maximum(counts.to_numpy().sum(axis=1, keepdims=True), 1)
    figure, axes = new_figure(height=1.9 + 0.5 * len(names))
    image = axes.pcolormesh(share, cmap="Blues", vmin=0, vmax=1, ec="white", lw=2)
    for (row, column), count in np.ndenumerate(counts.to_numpy()):
        if count:
            color = "white" if share[row, column] > 0.55 else "black"
            axes.text(column + 0.5, row + 0.5, str(count), ha="center", va="center", color=color)
    places = np.arange(len(names)) + 0.5
    told = list(map(literal, names))
    axes.set_xticks(places, told, rotation=25, ha="right")
    axes.set_yticks(places, told)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set(xlabel="predicted", ylabel="true")
    bar = figure.colorbar(image, ax=axes, pad=0.02, format=PercentFormatter(1.0))
    bar.set_label("of the true class")
    bar.outline.set_visible(False)
    right = (predictions["truth"] == predictions["predicted"]).mean()
    axes.set_title(f"{100 * right:.2f} % right (n = {len(predictions)} validation sequences)")
    return figure


@styled
def errors_by_person(predictions: pd.DataFrame) -> Figure:
    """The share of each person's sequences that is mistaken, the worst first, by true class.

    Args:
        predictions: `search.inside.predictions`.
    """
    wrong = predictions[predictions["truth"] != predictions["predicted"]]
    total = predictions.groupby("person").size()
    parts = pd.crosstab(wrong["person"], wrong["truth"]).reindex(total.index, fill_value=0)
    parts = parts.div(total, axis=0)
    parts = parts.loc[parts.sum(axis=1).sort_values(ascending=False).index]
    figure, axes = new_figure()
    below = np.zeros(len(parts))
    for name, color in zip(parts.columns, cycle(HEAD_COLORS), strict=False):
        axes.bar(range(len(parts)), parts[name], 0.7, below, color=color, label=literal(name))
        below += parts[name].to_numpy()
    names = [f"{literal(person)}\nn={total[person]}" for person in parts.index]
    axes.set_xticks(range(len(parts)), names, fontsize=9)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.margins(y=0.08)
    axes.grid(visible=False, axis="x")
    axes.set(xlabel="person (validation people)", ylabel="sequences mistaken")
    axes.set_title("Mistakes by person; colour: what the person really did")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@styled
def window_ablation_curve(ablation: pd.DataFrame, step: float, unit: str = "s") -> Figure:
    """Accuracy of the trained network when it may look back less far.

    Args:
        ablation: `search.inside.window_ablation`.
        step: How long a step is.
        unit: Of ``step``.
    """
    figure, axes = new_figure()
    x = ablation["window_size"].to_numpy()
    value, low, high = (ablation[name].to_numpy() for name in ("accuracy", "low", "high"))
    axes.errorbar(
        x, value, [value - low, high - value], fmt="o-", color=HEAD_COLORS[0], lw=2, elinewidth=1.4,
        capsize=4,
    )  # fmt: skip
    for size, right, top in zip(x, value, high, strict=True):
        axes.annotate(f"{100 * right:.1f} %", (size, top), xytext=(0, 5),
                      textcoords="offset points", ha="center", fontsize=9)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(x)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda size, _: f"{size:g}\n{size * step:.3g} {unit}")
    )
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    span = max(high.max() - low.min(), LEAST_SPAN)
    top = min((high.max() + low.min() + 1.4 * span) / 2, 1 + 0.1 * span)
    axes.set_ylim(max(0.0, top - 1.4 * span), top)
    axes.set_xlabel("past cells it may attend to (trained with the rightmost)")
    axes.set_ylabel("validation accuracy")
    count = int(ablation["sequences"].iloc[0])
    axes.set_title(f"Taking memory away from the trained network (n = {count:,} sequences)")
    figure.supxlabel(
        "bars: 95 % interval over sequences", fontsize=9, color="#666666", x=0.99, ha="right"
    )
    return figure
