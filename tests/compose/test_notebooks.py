"""The notebooks in the notebook service: with its packages, and a user who only reads."""

from __future__ import annotations

import nbformat
import pytest

from tests.compose.stack import Stack
from tests.notebook_tests.test_notebooks import FIGURES, pictures, printed

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def imported(stack: Stack) -> str:
    """Name of a study in MongoDB: the shipped one, read from the volume `results`."""
    stack.search("import", "results/shipped/study.jsonl")
    return "shipped"


@pytest.mark.parametrize("name", ["01_which_settings_win", "02_search_progress"])
def test_notebooks_show_a_study_in_mongo(stack: Stack, imported: str, name: str) -> None:
    text = run_notebook(stack, name, "-p", "study", imported)
    notebook = nbformat.reads(text, as_version=4)
    assert pictures(notebook) == FIGURES[name]
    assert "Warning" not in printed(notebook)


def test_notebooks_open_with_the_shipped_study(stack: Stack) -> None:
    name = "02_search_progress"
    assert pictures(nbformat.reads(run_notebook(stack, name), as_version=4)) == FIGURES[name]


def run_notebook(stack: Stack, name: str, *parameters: str) -> str:
    """Run a notebook in its own folder, as JupyterLab does, and return it as it then is."""
    (container,) = stack.containers("notebook")
    return stack.docker(
        "exec", "-w", "/home/larnn/notebooks", container,
        "papermill", "--no-progress-bar", *parameters, f"{name}.ipynb", "-",
    )  # fmt: skip
