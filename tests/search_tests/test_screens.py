"""What reading commands print for people."""

import dataclasses

import pytest

from search.screens import print_trial
from tests.search_tests.sample_study import sample_study, sample_trials

STUDY = sample_study()


@pytest.mark.parametrize("params", [{}, {"seed": 3}])
def test_a_trial_shows_one_seed_the_one_that_trains(params, capsys):
    trial = dataclasses.replace(sample_trials(1)[0], params=params, seed=579)
    print_trial(STUDY, trial)
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert [row for row in rows if row[:1] == ["seed"]] == [["seed", str(params.get("seed", 579))]]
