import dataclasses
import io
import json
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from rich.console import Console

from search.commands import reading
from search.keys import Keys
from search.live import LiveView
from search.overview import MOST_STUDIES, studies_table
from tests.search_tests.sample_study import sample_study, sample_trials
from trials.memory_store import MemoryStore
from trials.study import StudyState


@pytest.fixture
def store():
    """Two studies, the first with trials."""
    store = MemoryStore()
    store.restore_study(sample_study(), sample_trials(20))
    add(store, "a-second-search-of-another-cell")
    return store


def add(store, name):
    store.create_study(dataclasses.replace(sample_study().spec, name=name))


def shown(store, followed):
    file = io.StringIO()
    Console(file=file, width=80, color_system=None).print(studies_table(store, followed))
    return file.getvalue()


def test_all_studies_are_listed_in_80_columns_with_their_trials_by_state(store):
    text = shown(store, "quick")
    assert all(len(line) <= 80 for line in text.splitlines())
    counts = store.counts("quick")
    (line,) = [line for line in text.splitlines() if line.startswith("> ")]
    assert line.split()[1:3] == ["quick", "ACTIVE"]
    assert line.split()[5:7] == [str(counts["COMPLETE"]), str(counts["PRUNED"])]
    assert text.split()[:3] == ["study", "state", "waiting"]
    assert "  a-second-search-of-an…" in text


def test_one_study_alone_needs_no_list(store):
    store.delete_study("a-second-search-of-another-cell")
    assert studies_table(store, "quick") is None


def test_of_many_studies_the_latest_and_the_followed_are_listed(store):
    for number in range(9):
        add(store, f"more-{number}")
    text = shown(store, "quick")
    assert sum("ACTIVE" in line for line in text.splitlines()) == MOST_STUDIES
    assert "> quick" in text
    assert "more-8" in text
    assert "and 5 older ones" in text


@pytest.fixture
def commands(store, monkeypatch):
    """The command line on a store in memory."""

    @contextmanager
    def opened(mongo):
        yield store

    monkeypatch.setattr(reading, "opened", opened)
    return CliRunner()


def test_status_as_json_names_all_studies(commands, store):
    told = json.loads(commands.invoke(reading.status, ["quick", "--json"]).stdout)
    assert told["study"] == "quick"
    listed = {row["study"]: row["counts"] for row in told["studies"]}
    assert listed["quick"]["COMPLETE"] == store.counts("quick")["COMPLETE"]
    assert listed["a-second-search-of-another-cell"]["COMPLETE"] == 0


def test_watching_as_json_streams_a_line_each_time_until_the_study_is_over(
    commands, store, monkeypatch
):
    states = [StudyState.PAUSED, StudyState.CANCELLED]
    monkeypatch.setattr(
        reading.time, "sleep", lambda seconds: store.set_study_state("quick", states.pop(0))
    )
    result = commands.invoke(reading.status, ["quick", "--watch", "--json"])
    assert result.exit_code == 0
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["state"] for row in rows] == ["ACTIVE", "PAUSED", "CANCELLED"]
    assert len(rows[0]["studies"]) == 2


def test_a_key_shows_another_study_even_one_that_is_over(store, monkeypatch):
    other = "a-second-search-of-another-cell"
    store.set_study_state(other, StudyState.CANCELLED)
    pressed, followed = iter("nnnq"), []
    follow = LiveView.follow
    monkeypatch.setattr(
        LiveView, "follow", lambda view, name: followed.append(name) or follow(view, name)
    )
    monkeypatch.setattr(Keys, "__enter__", lambda keys: keys)
    monkeypatch.setattr(Keys, "are_read", True)
    monkeypatch.setattr(Keys, "wait", lambda keys, seconds: next(pressed))
    monkeypatch.setattr(Keys, "__init__", lambda keys: None)
    monkeypatch.setattr(Keys, "__exit__", lambda keys, *error: None)
    reading._watch(store, "quick")
    assert followed == [other, "quick", other]
