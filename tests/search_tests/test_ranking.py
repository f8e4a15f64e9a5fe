"""Which settings are best, and how commands tell it."""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest

from search.cli import run_command
from search.plain_lines import summary
from search.ranking import fresh_seeds, ranked
from search.report import facts, winner_in_words
from search.snapshot import take_snapshot
from search.source import StudyData, from_file, store_of_file
from tests.search_tests.sample_study import sample_study, sample_trials
from trials.trial import TrialState

STUDY = sample_study()
GRID = dataclasses.replace(STUDY, spec=dataclasses.replace(STUDY.spec, algorithm="grid"))
TEMPLATE = sample_trials(1)[0]
RANKING = Path(__file__).parents[2] / "results" / "har" / "har-larnn-2-rank.jsonl"


def trial(number, loss, state=TrialState.COMPLETE, **params):
    params = params or TEMPLATE.params
    return dataclasses.replace(TEMPLATE, number=number, loss=loss, state=state, params=params)


def numbers(study, trials):
    return [one.trial.number for one in ranked(study, trials)]


def test_complete_trials_are_ranked_and_ties_broken_by_number():
    trials = [
        trial(4, 0.5),
        trial(0, math.nan),
        trial(1, 0.5),
        trial(2, 0.1, TrialState.PRUNED),
        trial(3, 0.7),
        trial(5, None, TrialState.FAILED),
    ]
    assert numbers(STUDY, trials) == [1, 4, 3]


def test_settings_of_several_seeds_count_by_their_mean():
    lucky = [trial(n, loss, dropout=0.1, seed=n) for n, loss in enumerate((0.1, 0.5, 0.6))]
    steady = [trial(3 + n, 0.3, dropout=0.2, seed=n) for n in range(3)]
    first, second = ranked(GRID, [*lucky, *steady])
    assert (first.trial.number, first.seeds, first.loss) == (3, 3, pytest.approx(0.3))
    assert (second.trial.number, second.loss) == (0, pytest.approx(0.4))


def test_a_ranking_that_was_stopped_early_is_not_won_by_one_lucky_training():
    lucky = [trial(0, 0.1, dropout=0.1, seed=0)]
    steady = [trial(1 + n, 0.3, dropout=0.2, seed=n) for n in range(2)]
    assert numbers(GRID, [*lucky, *steady]) == [1]
    # a search may draw the seed as well: nothing has to be trained with all of them
    assert numbers(STUDY, [*lucky, *steady]) == [0, 1]


def test_seeds_that_chose_are_not_used_again():
    assert fresh_seeds(sample_trials(), 3) == (0, 1, 2)
    assert fresh_seeds([trial(0, 0.1, seed=6)], 2, first=5) == (5, 7)
    assert fresh_seeds([trial(0, 0.1, seed=0), trial(1, 0.1, seed=2)], 2) == (1, 3)
    # what a user enqueued is trained with the seeds 0, 1, ... of the trials themselves
    enqueued = [dataclasses.replace(trial(n, 0.1, dropout=0.1), seed=n) for n in range(3)]
    assert fresh_seeds(enqueued, 2) == (3, 4)


def test_every_command_names_the_same_winner_of_a_ranking(capsys):
    data = from_file(RANKING)
    assert data.best == data.trials[3]
    told = winner_in_words(data)
    assert "Trial 3 won with a validation loss of 0.1308" in told
    assert "95.04 %, on average over 3 seeds" in told
    assert "seed 0" not in told
    assert run_command(["best", str(RANKING), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)[0]
    assert (first["number"], first["seeds"]) == (3, 3)
    assert first["mean_loss"] == pytest.approx(0.1308, abs=1e-4)
    assert run_command(["best", str(RANKING)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"mean loss +0.1308 +0.1468 +0.1525", shown)
    assert re.search(r"seeds +3 +3 +3", shown)
    assert re.search(r"settings +trial 31 +trial 33 +trial 41", shown)
    assert "Fixed: keep=last dropout_on=output augmentation=rotate" in shown


def test_a_report_tells_what_all_trials_share():
    study = dataclasses.replace(
        STUDY,
        spec=dataclasses.replace(STUDY.spec, space={**STUDY.spec.space, "fixed": {"cell": "lstm"}}),
    )
    assert ("fixed", "cell lstm, data har, epochs 12") in facts(StudyData(study, ()))


def test_what_settings_do_is_not_asked_of_a_ranking(tmp_path, capsys):
    figure, page = tmp_path / "figure.png", tmp_path / "page.html"
    assert run_command(["plot", str(RANKING), "importance", "-o", str(figure)]) == 1
    assert "har-larnn-2-rank trains what a search chose; see larnn-search summary" in (
        capsys.readouterr().err
    )
    assert not figure.exists()
    assert run_command(["report", str(RANKING), "-o", str(page)]) == 0
    assert page.read_text().count("<figure>") == 4  # again, curves, timeline, throughput


@pytest.mark.parametrize("purpose", ["rank", "test"])
def test_what_trains_chosen_settings_again_names_no_best_trial(purpose):
    file = RANKING.with_name(f"har-larnn-2-{purpose}.jsonl")
    snapshot = take_snapshot(*store_of_file(file))
    assert snapshot.best is None
    assert snapshot.why_no_best.endswith(f"larnn-search summary har-larnn-2-{purpose}")
    assert "best" not in summary(snapshot)


def test_a_final_has_no_best_settings(capsys):
    file = RANKING.with_name("har-larnn-2-test.jsonl")
    assert run_command(["best", str(file)]) == 1
    assert "is a final and chooses nothing; its result: larnn-search summary" in (
        capsys.readouterr().err
    )
