"""What reading commands print for people, in terminals of any width and in pipes."""

import dataclasses
import re
from datetime import timedelta

import pytest
from rich.text import Text

from search.compare import compare
from search.ranking import ranked
from search.screens import print_best, print_comparison, print_trial, print_trials
from search.source import StudyData
from search.tables import print_rich, table
from tests.search_tests.sample_study import sample_study, sample_trials

STUDY = sample_study()
PIPE = None


@pytest.fixture
def screen(capsys, monkeypatch):
    """The lines that a terminal of so many columns shows, or a pipe."""

    def shown(width, show, *args):
        with monkeypatch.context() as patch:
            if width is not PIPE:
                for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": width}.items():
                    patch.setenv(name, str(value))
            show(*args)
        text = Text.from_ansi(capsys.readouterr().out).plain
        assert "…" not in text
        return [line.strip() for line in text.splitlines() if line.strip()]

    return shown


def cells(line):
    return re.split(r"\s{2,}", line)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_trials_drop_settings_that_do_not_fit_and_say_how_many(width, screen):
    whole = [cells(line) for line in screen(PIPE, print_trials, STUDY, sample_trials(3))]
    lines = screen(width, print_trials, STUDY, sample_trials(3))
    head, _, *rows = [cells(line) for line in lines[: len(whole)]]
    assert head[:5] == ["trial", "state", "loss", "validation", "time"]
    assert rows == [row[: len(head)] for row in whole[2:]]
    assert (len(head) == 5) == (width == 40)
    assert width == 40 or max(map(len, lines)) <= width
    told = " ".join(lines[len(whole) :])
    assert told.startswith(f"Columns left out: {len(whole[0]) - len(head)}. A wider terminal")


def test_the_best_drop_what_settings_mean_and_then_the_last_trials(screen):
    best = ranked(STUDY, sample_trials())[:5]
    _, head, *whole = screen(PIPE, print_best, STUDY, best)
    assert cells(head) == [*(f"trial {one.trial.number}" for one in best), "meaning"]
    for width, kept in {150: 6, 80: 5, 60: 3, 20: 1}.items():
        _, narrow, *rest = screen(width, print_best, STUDY, best)
        assert cells(narrow) == cells(head)[:kept]
        told = " ".join(rest[len(whole) - 1 :])  # the line of what is fixed follows
        assert told.startswith(f"Columns left out: {6 - kept}." if kept < 6 else "Fixed: data=har")


def test_a_comparison_goes_on_below_with_the_studies_named_again(screen):
    rows = compare([StudyData(STUDY, tuple(sample_trials(20)))])
    (head, _, row, *_) = screen(PIPE, print_comparison, rows)
    lines = screen(80, print_comparison, rows)
    for whole, at in ((head, 0), (row, 2)):
        pieces = [cells(lines[first + at]) for first in (0, 3, 6)]
        assert [pieces[0][0], *(cell for piece in pieces for cell in piece[1:])] == cells(whole)
        assert len({piece[0] for piece in pieces}) == 1


def test_codes_that_steer_a_terminal_are_shown(screen):
    trial = dataclasses.replace(sample_trials(1)[0], result={"note": "a\x1b]52;c;eA==\x07\x9b2Kb"})
    told = "\n".join(screen(PIPE, print_trial, STUDY, trial))
    assert "a␛]52;c;eA==" in told
    assert not {"\x1b", "\x9b"} & set(told)


def test_text_wraps_and_what_is_wider_than_the_terminal_is_shown_all_the_same(screen):
    made = table("name", "~prose", ">number")
    made.add_row(
        "a-name-that-nobody-cuts", "several words that may stand below each other", "123456"
    )
    told = " ".join(screen(30, print_rich, made))
    for word in ("a-name-that-nobody-cuts", "several words", "below each", "123456"):
        assert word in told


@pytest.mark.parametrize("params", [{}, {"seed": 3}])
def test_a_trial_shows_one_seed_the_one_that_trains(params, screen):
    trial = dataclasses.replace(sample_trials(1)[0], params=params, seed=579)
    rows = [line.split()[:2] for line in screen(PIPE, print_trial, STUDY, trial)]
    assert [row for row in rows if row[0] == "seed"] == [["seed", str(params.get("seed", 579))]]


@pytest.mark.parametrize("width", [PIPE, 120])
@pytest.mark.parametrize("value", ["[relu] y", "[/tmp/x]", "a:x:b", ":smile:"])
def test_text_with_brackets_and_colons_is_shown_as_it_is(value, width, screen):
    trial = dataclasses.replace(
        sample_trials(1)[0], params={"activation": value}, result={"note": value}
    )
    lines = [cells(line) for line in screen(width, print_trial, STUDY, trial)]
    assert ["activation", value] in lines
    assert ["note", value] in lines


def test_the_time_of_a_resumed_trial_is_that_of_all_its_attempts(screen):
    trial = ranked(STUDY, sample_trials())[0].trial
    resumed = dataclasses.replace(
        trial,
        attempt=2,
        result={**trial.result, "seconds": 754.0},
        finished_at=trial.started_at + timedelta(seconds=60),
    )
    for show, what in ((print_trial, resumed), (print_trials, [resumed])):
        assert any("12 min 34 s" in cells(line) for line in screen(PIPE, show, STUDY, what))
