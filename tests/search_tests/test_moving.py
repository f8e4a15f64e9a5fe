"""Trials come in and studies go out: enqueue, import, export, upgrade, logs, repeat."""

import dataclasses
import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from model.config import TrialConfig
from search.derivation import SETTINGS, TOGETHER, named_settings
from search.enqueue import complete, enqueue
from search.final import final_spec
from search.launch import DEFAULT_OBJECTIVE
from search.named_spaces import NAMED_SPACES
from search.parameter import Parameter
from search.repeat import repeat_command
from search.source import StudyData
from search.space import Space, parse_assignment
from search.steering import resume, retry
from tests.search_tests.sample_study import sample_study, sample_trials
from trials.errors import IllegalTransitionError, SchemaVersionError, StoreUnavailableError
from trials.memory_store import MemoryStore
from trials.store import LOG, NewTrial, WorkerInfo
from trials.study import StudySpec, StudyState
from trials.transfer import dump
from trials.trial import Failure, FailureKind, Outcome, TrialState
from trials.upgrade import upgrade

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
GIVEN = {"rate": 1, "layers": 2, "optimizer": "sgd", "momentum": 0.5}


def spec_of(space, **settings):
    return StudySpec("s", "module:function", NAMED_SPACES[space].to_dict(), **settings)


# -- enqueue -------------------------------------------------------------------------------------


def test_an_enqueued_trial_is_as_one_that_was_suggested():
    store = MemoryStore()
    store.create_study(SPEC)
    trial = enqueue(store, "s", GIVEN)
    assert trial.params == {**GIVEN, "data": "mine", "epochs": 3}
    assert type(trial.params["rate"]) is float
    assert trial.state is TrialState.WAITING
    assert trial.suggestion == {"origin": "enqueued"}
    assert enqueue(store, "s", {**GIVEN, "epochs": 3}).number == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rate": 2.0}, "'rate' must be between 0.1 and 1, got 2.0"),
        ({"rate": "fast"}, "'rate' must be between 0.1 and 1, got 'fast'"),
        ({"layers": 1.5}, "'layers' must be a whole number between 1 and 3"),
        ({"optimizer": "sdg"}, "'optimizer' must be one of 'sgd', 'adam'"),
        ({"optimizer": "adam"}, "'momentum' has a use only when optimizer = 'sgd'"),
        ({"epochs": 4}, "epochs is fixed to 3 in study s, got 4"),
        ({"layer": 4}, "unknown parameter 'layer'; did you mean 'layers'"),
    ],
)
def test_what_does_not_fit_the_study_is_not_enqueued(change, words):
    store = MemoryStore()
    store.create_study(SPEC)
    with pytest.raises(ValueError, match=words):
        enqueue(store, "s", {**GIVEN, **change})
    assert store.list_trials("s") == []


@pytest.mark.parametrize("name", ["rate", "momentum"])
def test_a_missing_setting_is_named(name):
    given = {key: value for key, value in GIVEN.items() if key != name}
    with pytest.raises(ValueError, match=f"'{name}' is missing"):
        complete(SPEC, given)


def test_a_derived_setting_is_taken_as_trials_show_it_and_as_it_is_drawn():
    spec = spec_of("paper-round-1")
    shown = NAMED_SPACES["paper-round-1"].example() | {"num_heads": 8, "head_size": 9}
    assert complete(spec, shown) == shown
    drawn = {k: v for k, v in shown.items() if k != "head_size"} | {"hidden_size": 70.0}
    assert complete(spec, drawn) == shown
    without = {k: v for k, v in shown.items() if k != "head_size"}
    with pytest.raises(ValueError, match="'hidden_size' is missing"):
        complete(spec, without)


@pytest.mark.parametrize(
    ("change", "would"),
    [
        ({"num_heads": 20, "head_size": 77}, 5),  # their product lies beyond the hidden sizes
        ({"num_heads": 20, "head_size": 77, "hidden_size": 68.0}, 3),
    ],
)
def test_a_derived_setting_that_would_be_another_is_refused(change, would):
    given = NAMED_SPACES["paper-round-2"].example() | change
    with pytest.raises(ValueError, match=rf"would be {would}, got 77: .* leave it out and give h"):
        complete(spec_of("paper-round-2"), given)


def test_a_setting_that_no_choice_of_several_has_is_refused():
    choices = named_settings("a", {"rate": 1, "norm": "batch"}), named_settings("b", {"rate": 1})
    space = Space("again", (Parameter(SETTINGS, "choice", choices=choices),), derive=TOGETHER)
    spec = StudySpec("s", "module:function", space.to_dict())
    assert complete(spec, {"rate": 1}) == {"rate": 1}
    with pytest.raises(
        ValueError, match=r"'norm' would be left out, got 'layer': .* give settings"
    ):
        complete(spec, {"rate": 1, "norm": "layer"})


def test_the_larnn_checks_its_own_settings():
    spec = dataclasses.replace(spec_of("lstm", fixed={"epochs": 0}), objective=DEFAULT_OBJECTIVE)
    given = NAMED_SPACES["lstm"].example()
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        complete(spec, given)


def test_a_finished_study_takes_no_trial():
    store = MemoryStore()
    store.create_study(SPEC)
    store.set_study_state("s", StudyState.COMPLETE)
    with pytest.raises(ValueError, match="is COMPLETE and starts no more trials"):
        enqueue(store, "s", GIVEN)


def test_a_failed_trial_is_retried_in_a_finished_study_if_that_would_go_on():
    failure = Failure(FailureKind.EXCEPTION, "no disk", "w", "h", 1)
    for limits, why in (({}, None), ({"until_loss": 1.0}, r"at once \(stopped: loss")):
        store = MemoryStore()
        store.create_study(dataclasses.replace(SPEC, max_trials=2, **limits))
        for number, loss in enumerate([0.5, None]):
            enqueue(store, "s", GIVEN)
            state = TrialState.FAILED if loss is None else TrialState.COMPLETE
            trial = store.reserve("s", "w", "h", f"t{number}")
            store.finish(trial.claim, Outcome(state, loss, failure=failure))
        store.set_study_state("s", StudyState.COMPLETE)
        if why is None:
            assert retry(store, "s", 1).state is TrialState.WAITING
            assert store.get_study("s").state is StudyState.ACTIVE
        else:
            with pytest.raises(ValueError, match=why):
                retry(store, "s", 1)


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (
            {"max_trials": 1},
            r"all 1 trials have finished\); give it a larger budget first",
        ),
        ({"max_trials": 9, "until_loss": 1.0}, r"stopped: loss 0.5 has reached 1"),
        ({"max_trials": 9}, None),
    ],
)
def test_a_finished_study_is_resumed_if_there_is_something_to_do(limits, why):
    store = MemoryStore()
    store.create_study(dataclasses.replace(SPEC, **limits))
    enqueue(store, "s", GIVEN)
    store.finish(store.reserve("s", "w", "h", "t").claim, Outcome(TrialState.COMPLETE, 0.5))
    store.set_study_state("s", StudyState.COMPLETE)
    if why is None:
        assert resume(store, "s", "by hand").state is StudyState.ACTIVE
    else:
        with pytest.raises(IllegalTransitionError, match=f"would end again at once .{why}"):
            resume(store, "s", "by hand")
        assert store.get_study("s").state is StudyState.COMPLETE


class Completing(MemoryStore):
    """Its study is completed just before a trial is added."""

    def add_trials(self, study, token, first_number, trials):
        self.set_study_state(study, StudyState.COMPLETE)
        return super().add_trials(study, token, first_number, trials)


def test_a_trial_enqueued_while_its_study_is_completed_does_not_wait_for_ever():
    store = Completing()
    store.create_study(SPEC)
    assert enqueue(store, "s", GIVEN).state is TrialState.WAITING
    assert store.get_study("s").state is StudyState.ACTIVE


def test_a_study_whose_whole_budget_runs_takes_no_trial():
    store = MemoryStore()
    store.create_study(dataclasses.replace(SPEC, max_trials=1))
    enqueue(store, "s", GIVEN)
    store.reserve("s", "w", "h", "t")
    with pytest.raises(ValueError, match=r"has 1 trials that run or have finished.*--max-trials"):
        enqueue(store, "s", GIVEN)


@pytest.mark.mongo
def test_enqueue_takes_json_and_files(database, larnn, tmp_path):
    database.create_study(SPEC)
    file = tmp_path / "best.json"
    file.write_text(json.dumps(GIVEN))
    assert "Trial 0 of s is WAITING" in larnn("enqueue", "s", "--params", json.dumps(GIVEN))
    assert "Trial 1 of s is WAITING" in larnn("enqueue", "s", "--params", f"@{file}")
    assert database.get_trial("s", 0).params == database.get_trial("s", 1).params
    for params, words in {
        "{'rate': 1}": "--params is not JSON",
        "[1]": "--params takes settings",
        "@nowhere.json": "cannot read nowhere.json",
        '{"rate": 0.7}': "'layers' is missing",
    }.items():
        assert words in larnn("enqueue", "s", "--params", params, status=2)


# -- export and import ---------------------------------------------------------------------------


@pytest.mark.mongo
def test_an_exported_study_is_imported_as_it_was(database, larnn, tmp_path):
    study, trials = sample_study(), sample_trials(20)
    database.restore_study(study, trials)
    database.record_test_look(study.name, {"number": 3, "test_accuracy": 0.9})
    kept = database.get_study(study.name), database.list_trials(study.name)
    file = tmp_path / "study.jsonl"
    assert "20 trials" in larnn("export", study.name, "-o", file)
    assert "exists already" in larnn("import", file, status=2)
    larnn("import", file, "--study", "again")
    assert database.list_trials("again") == [dataclasses.replace(t, study="again") for t in kept[1]]
    larnn("delete", study.name, "--yes")
    assert "20 trials imported" in larnn("import", file)
    assert (database.get_study(study.name), database.list_trials(study.name)) == kept


@pytest.mark.mongo
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_study_is_exported_as_a_table(suffix, database, larnn, tmp_path):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    database.restore_study(sample_study(), sample_trials(20))
    file = tmp_path / f"study{suffix}"
    larnn("export", "quick", "-o", file)
    if suffix == ".csv":
        frame = pd.read_csv(file, float_precision="round_trip")
    else:
        frame = pd.read_parquet(file)
    assert list(frame["number"]) == list(range(20))
    expected = [trial.params["learning_rate"] for trial in sample_trials(20)]
    assert list(frame["learning_rate"]) == expected
    assert os.listdir(tmp_path) == [file.name]


def test_an_exported_file_becomes_a_table_without_a_database(larnn, tmp_path):
    file, table = tmp_path / "file.jsonl", tmp_path / "table.csv"
    file.write_text("".join(dump(sample_study(), sample_trials(20))))
    assert larnn("export", file, "-o", table) == f"Study quick: 20 trials in {table}.\n"
    assert list(pd.read_csv(table)["number"]) == list(range(20))


@pytest.mark.mongo
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_study_without_trials_is_exported_too(suffix, database, larnn, tmp_path):
    database.create_study(SPEC)
    file = tmp_path / f"s{suffix}"
    assert "0 trials" in larnn("export", "s", "-o", file)
    if suffix == ".csv":
        assert file.read_text().startswith("number,state,loss,")
    else:
        assert "0 trials imported" in larnn("import", file, "--study", "t")


@pytest.mark.mongo
def test_parquet_takes_a_choice_of_mixed_types(database, larnn, tmp_path):
    pytest.importorskip("pyarrow")
    database.create_study(SPEC)
    new = [NewTrial({"width": width}, 0) for width in (1, "auto", 2.5, None)]
    database.add_trials("s", None, 0, new)
    larnn("export", "s", "-o", tmp_path / "s.parquet")
    assert list(pd.read_parquet(tmp_path / "s.parquet")["width"][:3]) == ["1", '"auto"', "2.5"]


@pytest.mark.mongo
def test_what_cannot_be_exported_or_imported_is_said(database, larnn, tmp_path, monkeypatch):
    database.create_study(SPEC)
    assert "ending in .csv, .parquet, .jsonl" in larnn("export", "s", "-o", "s.xls", status=2)
    assert "cannot write" in larnn("export", "s", "-o", tmp_path / "no" / "s.csv", status=2)
    assert "no study is named 't'" in larnn("export", "t", "-o", tmp_path / "t.csv", status=2)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install pyarrow" in larnn("export", "s", "-o", "s.parquet", status=2)
    (tmp_path / "broken.jsonl").write_text("number,loss\n1,2\n")
    assert "broken.jsonl is no exported study: line 1 does not read" in larnn(
        "import", tmp_path / "broken.jsonl", status=2
    )
    (tmp_path / "empty").mkdir()
    assert "no results_round_1" in larnn("import", tmp_path / "empty", status=2)


# -- the paper author's trials -------------------------------------------------------------------


def published(folder, round_number, name, *, heads=9, activation=True):
    """One file as the author's repository has them."""
    told = {
        "best_train_accuracy": 0.9, "best_train_f1_score": 0.9, "best_validation_accuracy": 0.8,
        "best_validation_f1_score": 0.79, "dataset_name": "UCIHAR", "loss": -0.8,
        "model_name": name, "real_best_loss": 0.5, "status": "ok", "true_loss": -0.8,
        "true_loss_variance": 1e-5,
        "history": {
            "validation_accuracies": [0.7, 0.8], "validation_f1_scores": [0.69, 0.79],
            "validation_losses": [0.6, 0.5],
        },
        "space": {
            "activation_on_keys_and_values": activation, "attention_heads": heads,
            "batch_size": 256, "decay_each_N_epoch": 4, "dropout_drop_proba": 0.2,
            "hidden_size": 7 * heads, "is_stacked_residual": True, "l2_weight_reg": 0.002,
            "larnn_mode": "residual", "larnn_window_size": 36, "learning_rate": 0.004,
            "num_layers": 3, "training_epochs": 25, "use_positional_encoding": False,
        },
    }  # fmt: skip
    file = folder / f"results_round_{round_number}" / "UCIHAR" / f"{name}.txt.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told))
    return file


@pytest.mark.mongo
def test_the_authors_trials_become_studies(database, larnn, tmp_path):
    published(tmp_path, 1, "model_0.8_bbbbb", heads=9)
    published(tmp_path, 1, "model_0.9_aaaaa", heads=12, activation=False)
    published(tmp_path, 2, "model_0.8_ccccc", heads=30)
    said = larnn("import", tmp_path)
    assert said.splitlines() == [
        "Study author-round-1: 2 trials imported.",
        "Study author-round-2: 1 trials imported.",
    ]
    first, second = database.list_trials("author-round-1")
    assert (first.params["num_heads"], first.params["head_size"]) == (12, 7)
    assert first.params["attention_activation"] == "none"
    assert second.params["attention_activation"] == "elu"
    assert second.loss == 0.5
    assert second.result["author_loss"] == -0.8
    assert second.result["test_people_accuracy"] == 0.8
    assert [(r.step, r.loss) for r in second.reports] == [(1, 0.6), (2, 0.5)]
    TrialConfig.from_params(second.params)
    assert json.loads(larnn("show", "author-round-1", 1, "--json"))["repeat"] is None


def test_a_file_of_another_layout_is_named(larnn, tmp_path):
    file = published(tmp_path, 1, "model_0.8_bbbbb")
    file.write_text('{"space": {}}')
    assert "bbbbb.txt.json is no trial" in larnn("import", tmp_path, status=2)


@pytest.mark.mongo
def test_all_published_trials_can_be_imported(database, larnn):
    folder = os.environ.get("LARNN_TEST_AUTHOR_TRIALS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LARNN_TEST_AUTHOR_TRIALS names no folder with the author's trials")
    larnn("import", folder)
    for number, count, epochs in ((1, 35, 25), (2, 22, 100)):
        trials = database.list_trials(f"author-round-{number}")
        assert len(trials) == count
        for trial in trials:
            assert trial.params["epochs"] == len(trial.reports) == epochs
            assert trial.loss == pytest.approx(min(r.loss for r in trial.reports), abs=1e-5)
            TrialConfig.from_params(trial.params)


# -- logs, repeat, upgrade -----------------------------------------------------------------------


@pytest.mark.mongo
def test_logs_prints_what_a_trial_wrote(database, larnn):
    database.create_study(SPEC)
    database.add_trials("s", None, 0, [NewTrial(GIVEN, 0), NewTrial(GIVEN, 1)])
    trial = database.reserve("s", "w", "h", "token")
    database.save_blob(trial.claim, LOG, b"epoch 1\nepoch 2 \xff\n")
    database.finish(trial.claim, Outcome(TrialState.COMPLETE, 0.5))
    assert larnn("logs", "s", 0) == "epoch 1\nepoch 2 \N{REPLACEMENT CHARACTER}\n"
    assert "trial 1 of s (WAITING) has kept no output" in larnn("logs", "s", 1, status=1)
    assert "has no trial 7" in larnn("logs", "s", 7, status=2)


@pytest.mark.mongo
def test_show_ends_with_the_command_that_repeats_the_trial(database, larnn):
    database.restore_study(sample_study(), sample_trials(3))
    line = larnn("show", "quick", 1).splitlines()[-1]
    assert line == json.loads(larnn("show", "quick", 1, "--json"))["repeat"]
    assert line.startswith("larnn-search train --threads 1 --fix ")


def test_the_command_names_every_setting():
    trial = dataclasses.replace(
        sample_trials(1)[0],
        seed=77,
        params={"learning_rate": 0.1 + 0.2, "data": "npz:my data.npz"},
        result={"device": "cuda:1", "backend": "torch"},
    )
    words = shlex.split(repeat_command(sample_study(), trial))
    assert words[:6] == ["larnn-search", "train", "--threads", "1", "--device", "cuda"]
    assert words[6:8] == ["--backend", "torch"]
    given = dict(parse_assignment(word) for word in words[9::2])
    expected = TrialConfig.from_params({**trial.params, "seed": 77})
    assert TrialConfig.from_params(given) == expected
    assert set(given) == {k for k, v in expected.to_params().items() if v is not None}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"seeds": 5, "folds": None}, "--seeds 5"),
        ({"seeds": 3, "folds": 10}, "--seeds 3 --folds 10"),
        ({"seeds": 1, "folds": 2}, "--seeds 1 --folds 2"),
    ],
)
def test_a_final_is_repeated_whole_so_that_its_looks_are_known(asked, words):
    searched = sample_trials(1)[0]
    search = StudyData(sample_study(), (searched,))
    study = dataclasses.replace(sample_study(), spec=final_spec(search, searched, **asked))
    trial = dataclasses.replace(searched, result={"device": "cpu"})
    expected = f"larnn-search final quick --trial 0 {words}"
    assert repeat_command(study, trial) == f"{expected} --device cpu"
    named = dataclasses.replace(study, spec=dataclasses.replace(study.spec, name="mine"))
    assert repeat_command(named, trial) == f"{expected} --name mine --device cpu"


def test_the_command_of_an_objective_of_your_own_repeats_its_trial(tmp_path):
    (tmp_path / "trials.py").write_text("raise RuntimeError('the wrong file')")
    (tmp_path / "own.py").write_text(
        "import os\n"
        "def f(params, context):\n"
        "    context.report(1, 0.5, accuracy=0.1)\n"
        "    assert context.stop_reason() is None and context.load_checkpoint() is None\n"
        "    told = [context.number, context.seed, context.threads, context.device]\n"
        "    return {'loss': 1.0, 'params': params, 'told': told,\n"
        "            'threads': os.environ['OMP_NUM_THREADS']}\n"
    )
    spec = dataclasses.replace(sample_study().spec, objective="own:f", threads=3)
    params = {"x": "it's", "bound": math.inf, "on": True, "none": None}
    trial = dataclasses.replace(
        sample_trials(6)[5], params=params, seed=77, result={"device": "cpu"}
    )
    study = dataclasses.replace(sample_study(), spec=spec)
    words = shlex.split(repeat_command(study, trial))
    assert words[0] == "python"
    words[0] = sys.executable
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    step, result = done.stdout.splitlines()
    assert step == "step 1: loss 0.5"
    told = json.loads(result)
    assert told["params"] == params
    assert told["told"] == [5, 77, 3, "cpu"]
    assert told["threads"] == "3"


@pytest.mark.mongo
def test_a_database_of_an_older_version_is_upgraded_step_by_step(database):
    database.create_study(SPEC)
    database.add_trials("s", None, 0, [NewTrial(GIVEN, 0)])
    done = []

    def step(version):
        def change(documents):
            done.append(version)
            for name in ("studies", "trials"):
                documents[name].update_many({"schema": version}, {"$set": {"schema": version + 1}})

        return change

    with pytest.raises(SchemaVersionError, match="install the newest"):
        upgrade(database, {1: step(1)}, target=3)
    worker = WorkerInfo("w", "host", 1)
    database.beat_worker(worker)
    with pytest.raises(StoreUnavailableError, match="1 workers still serve"):
        upgrade(database, {1: step(1), 2: step(2)}, target=3)
    database.remove_worker("w")
    assert done == []
    assert upgrade(database, {1: step(1), 2: step(2)}, target=3) == 1
    assert done == [1, 2]
    assert upgrade(database, {}, target=3) == 3
    assert database.database["meta"].find_one({"_id": "schema"})["version"] == 3


@pytest.mark.mongo
def test_a_database_of_a_newer_version_is_refused_with_what_to_do(database, larnn):
    assert "schema version 1, as before" in larnn("upgrade")
    database.database["meta"].update_one({"_id": "schema"}, {"$set": {"version": 2}})
    for command in ("studies", "upgrade"):
        assert "install the newest larnn-search everywhere" in larnn(command, status=1)
