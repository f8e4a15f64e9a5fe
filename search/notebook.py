"""What the notebooks share: showing figures, and following a search that still runs."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

from matplotlib.figure import Figure

from search.plot_style import WIDTH
from search.plots import write_figure
from search.source import StudyData, read_study


def show(figure: Figure) -> None:
    """Show a figure in a notebook at README width, sharp on fine screens."""
    from IPython.display import Image, display

    picture = io.BytesIO()
    write_figure(figure, picture, "png")
    display(Image(data=picture.getvalue(), width=int(WIDTH * 100)))  # type: ignore[no-untyped-call]  # IPython has no types


def follow(
    study: str,
    draw: Callable[[StudyData], Figure],
    *,
    mongo: str | None = None,
    every_s: float = 0.0,
    sleep: Callable[[float], None] = time.sleep,
) -> StudyData:
    """Show a figure of a study: once, or again and again until the study is over.

    Args:
        study: As for `search.source.read_study`.
        draw: Makes the figure.
        mongo: As for `search.source.read_study`.
        every_s: Seconds between two readings; 0: read once.
        sleep: Waits for some seconds.

    Returns:
        The study as last read.
    """
    from IPython.display import clear_output

    while True:
        data = read_study(study, mongo)
        clear_output(wait=True)  # type: ignore[no-untyped-call]  # IPython has no types
        show(draw(data))
        if not every_s or data.study.state.is_over:
            return data
        sleep(every_s)
