"""All studies of a queue in a few lines, above the one that `status --watch` follows."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from search.live_screen import STATE_STYLES
from trials.store import TrialStore
from trials.study import Counts, Study
from trials.trial import TrialState

MOST_STUDIES = 6
"""Studies listed one by one: the latest, and the one followed; what goes beyond is counted."""
SHOWN = (
    TrialState.WAITING,
    TrialState.RUNNING,
    TrialState.COMPLETE,
    TrialState.PRUNED,
    TrialState.FAILED,
)
StudyRow = tuple[Study, Counts]


def read_studies(store: TrialStore) -> list[StudyRow]:
    """Every study with its trials by state, oldest first."""
    return [(study, store.counts(study.name)) for study in store.list_studies()]


def studies_table(store: TrialStore, followed: str) -> RenderableType | None:
    """One line a study, its trials by state; the followed one is marked. Fits 80 columns.

    Args:
        store: Where the studies are.
        followed: The name of the one that is shown in full.

    Returns:
        None where there is no other study.
    """
    studies = store.list_studies()
    if len(studies) < 2:
        return None
    latest = [study.name for study in studies if study.name != followed][1 - MOST_STUDIES :]
    shown = [study for study in studies if study.name in (followed, *latest)]
    made = Table(
        box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False, header_style="bold"
    )
    made.add_column("study", no_wrap=True, overflow="ellipsis", max_width=24)
    made.add_column("state", no_wrap=True)
    for state in SHOWN:
        made.add_column(state.lower(), justify="right", no_wrap=True)
    for study in shown:
        mark, counts = "> " if study.name == followed else "  ", store.counts(study.name)
        numbers = (Text(str(counts[s] or "-"), STATE_STYLES[s]) for s in SHOWN)
        made.add_row(mark + study.name, str(study.state), *numbers)
    if len(studies) == len(shown):
        return made
    return Group(made, Text(f"and {len(studies) - len(shown)} older ones", style="dim"))
