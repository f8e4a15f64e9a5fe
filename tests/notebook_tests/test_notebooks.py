"""Every notebook runs from top to bottom on the study that comes with the repository."""

import dataclasses
import os
from pathlib import Path

import nbformat
import numpy as np
import pytest
from papermill import execute_notebook

from search.named_spaces import NAMED_SPACES
from search.report import facts
from search.source import StudyData
from tests.search_tests.sample_study import START, sample_study, sample_trials
from trials.study import Study, StudySpec, StudyState
from trials.transfer import dump
from trials.trial import Trial, TrialState

FOLDER = Path(__file__).parents[2] / "notebooks"
FIGURES = {
    "01_which_settings_win": 8,
    "02_search_progress": 5,
    "03_look_inside_the_larnn": 5,
    "04_the_paper_again": 3,
}
AUTHOR = os.environ.get("LARNN_TEST_AUTHOR_TRIALS")


def pictures(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def printed(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


def run(name, tmp_path, monkeypatch, **parameters):
    monkeypatch.setenv("LARNN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return execute_notebook(
        FOLDER / f"{name}.ipynb",
        tmp_path / "run.ipynb",
        parameters=parameters,
        cwd=FOLDER,
        progress_bar=False,
    )


def exported(file, space, *params, loss=0.5):
    """A study's file with a finished trial for each of the params."""
    result = {"validation_accuracy": 0.9, "device": "cpu", "best_epoch": 1}
    spec = StudySpec("own", "search.objective:train_larnn", NAMED_SPACES[space].to_dict())
    trials = [
        Trial("own", number, TrialState.COMPLETE, given, seed=0, created_at=START,
              started_at=START, finished_at=START, loss=loss, result=result)
        for number, given in enumerate(params)
    ]  # fmt: skip
    file.write_text("".join(dump(Study(spec, StudyState.COMPLETE, START), trials)))
    return str(file)


def test_every_notebook_is_known():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_notebooks_are_stored_bare_and_open_with_their_parameters(name):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert code[0].metadata["tags"] == ["parameters"]
    assert "results/shipped/study.jsonl" in code[0].source


@pytest.mark.parametrize("name", FIGURES)
def test_notebooks_run_on_the_shipped_study(name, tmp_path, monkeypatch):
    notebook = run(name, tmp_path, monkeypatch)
    assert pictures(notebook) == FIGURES[name]
    assert "Warning" not in printed(notebook)


def test_computing_counts_the_attempts_before_a_resume_as_the_report_does(tmp_path, monkeypatch):
    whole = {"seconds": 7200.0}  # of a training that was cut; its last attempt took less
    trials = [dataclasses.replace(trial, result=whole) for trial in sample_trials(4)]
    data = StudyData(sample_study(), tuple(trials))
    (tmp_path / "cut.jsonl").write_text("".join(dump(data.study, trials)))
    notebook = run("02_search_progress", tmp_path, monkeypatch, study=str(tmp_path / "cut.jsonl"))
    spent = dict(facts(data))["computing time"]
    assert spent == "8 h 00 min"
    assert f"4 trials ended, {spent} of computing in all" in printed(notebook)


@pytest.mark.skipif(AUTHOR is None, reason="LARNN_TEST_AUTHOR_TRIALS names no folder")
def test_the_authors_trials_are_shown_beside_ours(tmp_path, monkeypatch):
    notebook = run("04_the_paper_again", tmp_path, monkeypatch, author_results=AUTHOR)
    assert "author-round-2: 22 trials, best test people accuracy 91.92%" in printed(notebook)
    assert "n = 26 with, 9 without" in printed(notebook)
    assert pictures(notebook) == FIGURES["04_the_paper_again"] + 1


def test_any_data_set_can_be_looked_into(tmp_path, monkeypatch):
    y, length = np.arange(90) % 9, np.arange(90) % 8 + 3
    x = np.random.default_rng(0).standard_normal((90, 10, 2))
    np.savez(tmp_path / "mine.npz", x=x, y=y, length=length)
    params = {"data": f"npz:{tmp_path / 'mine.npz'}", "epochs": 1, "batch_size": 16,
              "window_size": 4, "positional_encoding": "static"}  # fmt: skip
    study = exported(tmp_path / "own.jsonl", "card", params)
    notebook = run("03_look_inside_the_larnn", tmp_path, monkeypatch, study=study)
    assert "class: 0" in printed(notebook)
    assert "The data name no people." in printed(notebook)
    assert pictures(notebook) == FIGURES["03_look_inside_the_larnn"] - 1


@pytest.mark.parametrize("name", sorted(set(FIGURES) - {"03_look_inside_the_larnn"}))
def test_a_study_that_has_just_begun_is_shown_to_the_last_cell(name, tmp_path, monkeypatch):
    study = exported(tmp_path / "own.jsonl", "card")
    run(name, tmp_path, monkeypatch, study=study)
    study = exported(tmp_path / "own.jsonl", "card", {"window_size": 4}, {"window_size": 8})
    assert pictures(run(name, tmp_path, monkeypatch, study=study)) == FIGURES[name]


@pytest.mark.parametrize("space", ["lstm", "card"])
def test_where_there_is_nothing_to_compare_nothing_is_decided(space, tmp_path, monkeypatch):
    given = {"cell": "lstm"} if space == "lstm" else {"attention_activation": "elu"}
    study = exported(tmp_path / "own.jsonl", space, *([given] * 12))
    notebook = run("04_the_paper_again", tmp_path, monkeypatch, study=study)
    with_activation = 0 if space == "lstm" else 12
    told = f"nothing to compare, {with_activation} trials with and 0 without."
    assert told in printed(notebook)
    assert "decided by these trials" not in printed(notebook)
