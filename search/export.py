"""A study as a file for other programs, or to be imported again."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.results import trials_frame
from trials.study import Study
from trials.transfer import dump
from trials.trial import Trial

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (".csv", ".parquet", ".jsonl")


def check_format(path: Path) -> None:
    """Refuse a file that `write` could not write, before anything is read.

    Raises:
        ValueError: If the file's name ends otherwise than in one of `FORMATS`, or ``.parquet`` is
            asked for and pyarrow is not installed.
    """
    if path.suffix not in FORMATS:
        raise ValueError(
            f"a study is exported to a file ending in {', '.join(FORMATS)}, got {path.name!r}"
        )
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ValueError("Parquet needs pyarrow: pip install pyarrow, or export to .csv or .jsonl")


def write(study: Study, trials: Sequence[Trial], path: Path) -> None:
    """Write all trials of a study: a table, or (``.jsonl``) all that `import` needs.

    The file appears whole or not at all.

    Args:
        study: The study.
        trials: Its trials, with reports.
        path: Its suffix chooses the format.

    Raises:
        ValueError: If the file cannot be written, or as `check_format`.
    """
    check_format(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.suffix == ".jsonl":
            with partial.open("w", encoding="utf-8") as file:
                file.writelines(dump(study, trials))
        elif path.suffix == ".csv":
            trials_frame(trials, study).to_csv(partial, index=False)
        else:
            _one_type_a_column(trials_frame(trials, study)).to_parquet(partial)
        partial.replace(path)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # a folder that is none has told its own
            partial.unlink(missing_ok=True)


def _one_type_a_column(frame: pd.DataFrame) -> pd.DataFrame:
    """Parquet's columns have one type: values of mixed ones (1, "auto") become JSON text."""

    def as_text(value: Any) -> str | None:
        return None if value is None or value != value else json.dumps(value)  # NaN is missing

    for name in frame.columns:
        present = frame[name].dropna()
        if frame[name].dtype == object and len({type(value) for value in present}) > 1:
            frame[name] = frame[name].map(as_text)
    return frame
