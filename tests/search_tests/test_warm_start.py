"""A study begins with what is known: others' trials to learn from, and points to try first."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from search.answer import Answer
from search.enqueue import add_points, complete_points
from search.feeder import Feeder
from search.history import in_common, other_trials
from search.named_spaces import NAMED_SPACES
from search.parameter import Parameter
from search.ranking import Ranked
from search.results import to_json_row, to_json_rows
from search.space import Space
from search.suggest import STARTUP_TRIALS, Suggester
from tests.search_tests.test_suggest import LINE, finished, quadratic, serial_search
from trials.memory_store import MemoryStore
from trials.store import NewTrial
from trials.study import StudySpec, StudyState
from trials.transfer import dump
from trials.trial import Outcome, Report, TrialState

SPACE = Space(
    "own",
    (
        Parameter("rate", "loguniform", 0.1, 1.0),
        Parameter("layers", "int", 1, 3),
        Parameter("optimizer", "choice", choices=("sgd", "adam")),
        Parameter("momentum", "uniform", 0.0, 0.9, when={"optimizer": "sgd"}),
    ),
    fixed={"data": "mine"},
)
SPEC = StudySpec("s", "module:function", SPACE.to_dict(), {"epochs": 3}, max_trials=5)
POINT = {"rate": 0.5, "layers": 2, "optimizer": "adam"}
WHOLE = {**POINT, "data": "mine", "epochs": 3}


def store_with(space, losses, name="other"):
    """A study whose trials have these params and losses."""
    store = MemoryStore()
    store.create_study(StudySpec(name, "module:function", space.to_dict()))
    store.add_trials(name, None, 0, [NewTrial(params, 0) for params, _ in losses])
    for number, (_, loss) in enumerate(losses):
        trial = store.reserve(name, "w", "h", f"t{number}")
        store.finish(trial.claim, Outcome(TrialState.COMPLETE, loss))
    return store


# -- --from-study --------------------------------------------------------------------------------


def distance(others, seeds=12):
    """How far from the optimum the first suggestions of new studies lie."""
    proposed = [Suggester(LINE, seed=s, others=others).suggest([], 1)[0] for s in range(seeds)]
    return float(np.mean([abs(new.params["x"] - 3) for new in proposed]))


def test_a_study_begins_where_the_other_one_was_good():
    others = serial_search(LINE, quadratic, 40, algorithm="random")
    (new,) = Suggester(LINE, others=others).suggest([], 1)
    assert new.suggestion["origin"] == "tpe"
    assert distance(others) < 0.6 * distance([])


def test_few_other_trials_only_shorten_the_random_start():
    others = serial_search(LINE, quadratic, 5, algorithm="random")
    own = serial_search(LINE, quadratic, STARTUP_TRIALS - 5, algorithm="random")
    suggester = Suggester(LINE, seed=3, others=others)
    assert suggester.suggest(own[:-1], 1)[0].suggestion["origin"] == "random"
    assert suggester.suggest(own, 1)[0].suggestion["origin"] == "tpe"


def test_losses_are_compared_within_a_study_only():
    others = serial_search(LINE, quadratic, 40, algorithm="random")
    scaled = [dataclasses.replace(trial, loss=1000 * trial.loss - 7) for trial in others]
    own = [finished(0, NewTrial({"x": 0.0}, 0), 0.5)]
    (told,) = Suggester(LINE, others=others).suggest(own, 1)
    assert Suggester(LINE, others=scaled).suggest(own, 1) == [told]
    upside_down = [dataclasses.replace(trial, loss=-trial.loss) for trial in others]
    assert distance(upside_down) > 2 * distance(others)


def test_own_trials_outweigh_those_of_others_in_time():
    wrong = serial_search(LINE, lambda params: -quadratic(params), 40, algorithm="random")
    own = serial_search(LINE, quadratic, 60, algorithm="random")
    suggester = Suggester(LINE, seed=1, others=wrong)
    found = [new.params["x"] for new in suggester.suggest(own, 8)]
    assert abs(float(np.median(found)) - 3) < 1.5


def test_what_two_spaces_have_in_common_is_learnt():
    assert in_common(SPACE, {**POINT, "more": 1}) == POINT
    assert in_common(SPACE, {**POINT, "rate": 7.0}) == {"layers": 2, "optimizer": "adam"}
    assert in_common(SPACE, {"momentum": 0.5, "layers": 2}) == {"layers": 2}
    assert in_common(SPACE, {"momentum": 0.5, "optimizer": "sgd"}) == {
        "momentum": 0.5,
        "optimizer": "sgd",
    }
    round_1 = NAMED_SPACES["paper-round-1"]
    assert set(in_common(round_1, round_1.example())) == {row.name for row in round_1.rows}


def test_a_setting_that_could_only_be_another_one_teaches_nothing():
    space = NAMED_SPACES["paper-round-2"]
    params = space.example() | {"num_heads": 20, "head_size": 77}  # 1540 features, of 92 at most
    assert set(in_common(space, params)) == {row.name for row in space.rows} - {"hidden_size"}


def test_only_a_common_setting_leads_a_study_with_more_of_them():
    others = serial_search(LINE, quadratic, 40, algorithm="random")
    wider = Space("wider", (*LINE.rows, Parameter("y", "uniform", 0.0, 1.0)))
    new = [Suggester(wider, seed=s, others=others).suggest([], 1)[0].params for s in range(12)]
    assert np.mean([abs(params["x"] - 3) for params in new]) < 0.6 * distance([])
    assert np.std([params["y"] for params in new]) > 0.15


def test_a_feeder_learns_from_the_other_study_and_so_does_the_one_after_it():
    losses = [({"x": float(x)}, float((x - 3) ** 2)) for x in np.linspace(-5, 5, 41)]
    store = store_with(LINE, losses)
    store.create_study(
        StudySpec("new", "module:function", LINE.to_dict(), from_studies=("other",), max_trials=3)
    )
    for number in range(2):
        feeder = Feeder(store, "new", ahead=0)
        feeder.step()
        trial = store.reserve("new", "w", "h", f"n{number}")
        assert trial.suggestion["origin"] == "tpe"
        store.finish(trial.claim, Outcome(TrialState.COMPLETE, quadratic(trial.params)))
        feeder.leave()
    store.delete_study("other")
    assert not Feeder(store, "new", ahead=0).step()
    assert "stopped: --from-study: no study is named 'other'" in store.get_study("new").message


def test_a_study_that_has_nothing_to_teach_is_refused():
    store = store_with(LINE, [({"x": 1.0}, 0.5)])
    with pytest.raises(ValueError, match="none of the 1 finished trials of other has a value"):
        other_trials(store, dataclasses.replace(SPEC, from_studies=("other",)))
    with pytest.raises(ValueError, match="--from-study: no study is named 'ohter'; there are othe"):
        other_trials(store, dataclasses.replace(SPEC, from_studies=("ohter",)))


def test_the_other_studys_pruned_trials_teach_by_their_reports():
    store = store_with(LINE, [])
    store.add_trials("other", None, 0, [NewTrial({"x": 1.0}, 0)])
    trial = store.reserve("other", "w", "h", "t")
    store.report(trial.claim, [Report(1, 2.0)])
    store.finish(trial.claim, Outcome(TrialState.PRUNED, 2.0))
    spec = StudySpec("new", "m:f", LINE.to_dict(), from_studies=("other",))
    (taken,) = other_trials(store, spec)
    assert taken.reports == (Report(1, 2.0),)


# -- --enqueue -----------------------------------------------------------------------------------


def points_of(tmp_path, content, name="best.json", spec=SPEC):
    file = tmp_path / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return complete_points(spec, [file])


def test_points_are_read_as_commands_print_them(tmp_path):
    elsewhere = {**POINT, "data": "theirs", "epochs": 20, "batch_size": 64}
    store = store_with(LINE, [({**elsewhere, "rate": 0.2}, 2.0), (elsewhere, 1.0)])
    trials = store.list_trials("other")
    study = store.get_study("other")
    run_line = Answer(study, (Ranked((trials[1],)),), {}).to_json()
    for content in (
        POINT,
        [POINT, POINT],
        {**POINT, "epochs": 3},
        to_json_row(trials[1], with_reports=True),
        to_json_rows(trials[1:]),
        run_line,
    ):
        assert points_of(tmp_path, content) == [WHOLE]
    assert points_of(tmp_path, "".join(dump(study, trials)), "other.jsonl") == [WHOLE]
    assert len(points_of(tmp_path, to_json_rows(trials))) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{rate: 1}", "not a file of settings as JSON"),
        ("[]", "takes settings like"),
        ("{}", "takes settings like"),
        ("[1]", r"takes settings like .*, got '\[1\]'"),
        ({"study": "s", "best": None}, "takes settings like"),
        ([POINT, {**POINT, "rate": 7.0}], "best.json, point 2: parameter 'rate' must be between"),
        ({"params": {"rate": 0.2}}, "point 1: parameter 'layers' is missing"),
        ({**POINT, "epochs": 4}, "point 1: epochs is fixed to 3 in study s, got 4"),
        ([{**POINT, "rate": r / 10} for r in range(2, 9)], "7 points, more than the 5 trials"),
    ],
)
def test_a_file_that_names_no_fitting_points_is_refused_in_one_line(tmp_path, content, words):
    with pytest.raises(ValueError, match=words) as refused:
        points_of(tmp_path, content)
    assert "\n" not in str(refused.value)


def test_an_export_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a file of settings as JSON"):
        points_of(tmp_path, POINT, "other.jsonl")


def test_points_come_first_and_a_repeated_command_adds_none(tmp_path):
    points = points_of(tmp_path, [POINT, {**POINT, "layers": 3}])
    store = MemoryStore()
    study = store.create_study(SPEC)
    for _ in range(2):
        add_points(store, study, points)
    feeder = Feeder(store, "s", ahead=3)
    feeder.step()
    trials = store.list_trials("s")
    assert [trial.suggestion["origin"] for trial in trials] == ["enqueued"] * 2 + ["random"] * 2
    assert [trial.params for trial in trials[:2]] == points
    over = store.set_study_state("s", StudyState.COMPLETE)
    add_points(store, over, points)  # nothing new: its answer may be looked at again
    with pytest.raises(ValueError, match="is COMPLETE and starts no more trials"):
        add_points(store, over, [{**WHOLE, "layers": 1}])
    cancelled = dataclasses.replace(over, state=StudyState.CANCELLED)
    with pytest.raises(ValueError, match="is CANCELLED for good: launch it under another name"):
        add_points(store, cancelled, [{**WHOLE, "layers": 1}])


# -- the command line ----------------------------------------------------------------------------

OBJECTIVE = "tests.trials_tests.objectives:square"
FILE = '[x]\ntype = "uniform"\nlow = -5.0\nhigh = 5.0\n'


@pytest.mark.mongo
def test_a_search_is_launched_with_what_is_known(database, larnn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.toml").write_text(FILE)
    launch = ["launch", "--no-wait", "--objective", OBJECTIVE, "--space", "own.toml"]
    complaint = larnn(*launch, "--study", "new", "--from-study", "old", status=2)
    assert "--from-study: no study is named 'old'" in complaint
    assert database.list_studies() == []

    larnn(*launch, "--study", "old")
    larnn("enqueue", "old", "--params", '{"x": 2.0}')
    trial = database.reserve("old", "w", "h", "t")
    database.finish(trial.claim, Outcome(TrialState.COMPLETE, 4.0))
    Path("best.json").write_text(larnn("best", "old", "--json"))
    new = [*launch, "--study", "new", "--from-study", "old", "--enqueue", "best.json"]
    for _ in range(2):
        larnn(*new)
    assert [trial.params for trial in database.list_trials("new")] == [{"x": 2.0}]
    assert database.get_study("new").spec.from_studies == ("old",)
    assert "from_studies is" in larnn(*launch, "--study", "new", status=2)
    Path("best.json").write_text('{"x": 9.0}')
    assert "best.json, point 1: parameter 'x' must be" in larnn(*new, status=2)
