"""What users get wrong, and what goes wrong around them: one clear line, and nothing is lost."""

import contextlib
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import time

import click
import numpy as np
import pytest

from search.cli import run_command
from search.commands import searching
from tests.model_tests.test_user_data import MISTAKES, arrays
from tests.trials_tests.conftest import state_dir  # noqa: F401  # a fixture
from tests.trials_tests.test_connect import guarded  # noqa: F401  # a fixture
from tests.trials_tests.working import promised
from trials.store import NewTrial
from trials.study import StudySpec, StudyState
from trials.trial import Outcome, TrialState

SPACE = """
[x]
type = "uniform"
low = -5.0
high = 5.0
"""
OBJECTIVE = "tests.trials_tests.objectives:square"
OWN = ["--objective", OBJECTIVE, "--space", "own.toml"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder to run in, with a space file, and a state folder in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LARNN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("LARNN_MONGO_URI", raising=False)
    (tmp_path / "own.toml").write_text(SPACE)
    return tmp_path


@pytest.fixture
def complaint(capsys):
    """Run a command line that must fail; its one line of complaint."""

    def run(arguments, status):
        assert run_command(arguments) == status
        said = capsys.readouterr()
        *before, line = said.err.strip().splitlines()
        assert line.startswith("larnn-search: ")
        assert len(line) < 600
        assert "Traceback" not in said.err
        # What took time may have been announced before.
        assert all(announced.startswith("Loading data") for announced in before), said.err
        return line

    return run


# -- without a server ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SPACE.replace("low", "lwo"), "own.toml line 4: [x] has unknown key 'lwo'; did you mean"),
        (SPACE.replace("uniform", "unifrom"), "own.toml line 2: parameter 'x' has unknown type"),
        (
            SPACE.replace("high = 5.0", "high = -6.0"),
            "own.toml line 2: parameter 'x' has an empty range",
        ),
        (
            SPACE.replace("high = 5.0", "high = -5.0"),
            "own.toml line 2: parameter 'x' has an empty range",
        ),
        (SPACE.replace("high = 5.0", "high = nan"), "own.toml line 2: parameter 'x'"),
        (SPACE.replace("high = 5.0", "high = inf"), "own.toml line 2: parameter 'x'"),
        (SPACE.replace("high = 5.0", 'high = "5"'), "own.toml line 2: parameter 'x'"),
        (SPACE.replace("high", 'when = {y = "a"}\nhigh'), "own.toml line 2: parameter 'x' is samp"),
        (SPACE + "[x]\n", "own.toml is not TOML"),
        ("x = \n", "own.toml is not TOML: Invalid value (at line 1"),
        ("x = 3\n", "own.toml searches nothing"),
        (SPACE.replace("[x]", '["a.b"]'), "own.toml line 2: a parameter's name has no '.'"),
        (SPACE + '"$y" = 3\n', "has unknown key '$y'"),
        ('\n"$y" = 3\n' + SPACE, "own.toml line 2: a parameter's name has no '.'"),
        (SPACE.replace("[x]", "[[x]]"), "own.toml line 2: a parameter is searched by one table"),
    ],
)
def test_a_typo_in_a_space_file_is_named_with_its_line(text, words, folder, complaint):
    (folder / "own.toml").write_text(text)
    assert words in complaint(["spaces", "own.toml"], 2)


NO_OBJECTIVE = {
    "nowhere:function": "cannot import the objective 'nowhere:function'",
    "math:nothing": "cannot import the objective 'math:nothing'",
    "math:pi": "the objective 'math:pi' is not a function",
    "math.sqrt": "an objective is named 'module:function', got 'math.sqrt'",
}


@pytest.mark.mongo
@pytest.mark.parametrize("name", NO_OBJECTIVE)
def test_an_objective_that_is_none_is_refused_before_anything_is_written(name, database, complaint):
    arguments = ["run", "--study", "s", "--objective", name, "--space", "own.toml"]
    assert NO_OBJECTIVE[name] in complaint(arguments, 2)
    assert database.list_studies() == []


@pytest.mark.parametrize("command", ["run --study s", "worker"])
def test_cuda_is_asked_for_where_there_is_none(command, monkeypatch, complaint):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    line = complaint([*command.split(), "--device", "cuda"], 2)
    assert "CUDA was asked for, but this machine shows no GPU" in line


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--memory-limit", "lots", "memory is written like 800MB or 4GB, got 'lots'"),
        ("--memory-limit", "0MB", "memory_limit_bytes must be above 0"),
        ("--max-trials", "0", "--max-trials"),
        ("--stall-timeout", "-1", "--stall-timeout"),
        ("--timeout", "nan", "timeout_s must be above 0, got nan"),
        ("--until-loss", "nan", "until_loss must be a number to be reached"),
        ("--ahead", "-1", "--ahead"),
        ("--seed", "-1", "--seed"),
        ("--data", "har", "--data belongs to the LARNN objective"),
        ("--fix", "=3", "an assignment is written name=value"),
        ("--fix", "x=3", "every parameter is fixed"),
        ("--space", "own.tmol", "unknown space 'own.tmol'"),
    ],
)
@pytest.mark.mongo
def test_options_out_of_range_are_refused(option, value, words, database, complaint):
    assert words in complaint(["run", "--study", "s", *OWN, option, value], 2)
    assert database.list_studies() == []


RUN, STAY = ["run", "--study", "s"], ["launch", "--study", "s", "--no-wait"]
LOST = [
    ([*RUN, *OWN, "--preset", "quick"], "--preset sizes the LARNN objective"),
    ([*RUN, "--from-study", "a", "--algorithm", "random"], "--from-study is for algorithms that"),
    ([*RUN, "--from-study", "a", "--algorithm", "grid"], "--from-study is for algorithms that"),
    ([*RUN, "--epochs", "5", "--fix", "epochs=7"], "got --epochs 5 and --fix epochs=7: leave one"),
    ([*RUN, "--data", "har", "--fix", "data=a"], "got --data har and --fix data=a: leave one"),
    (["train", "--data", "har", "--fix", "data=a"], "got --data har and --fix data=a: leave one"),
    (["train", "--seed", "1", "--fix", "seed=2"], "got --seed 1 and --fix seed=2: leave one"),
    ([*STAY, "--ahead", "1"], "--ahead is for a launcher that stays"),
    ([*STAY, "--lease", "30"], "--lease is for a launcher that stays"),
    ([*STAY, "--no-test"], "--no-test is for a launcher that stays"),
    ([*STAY, "--output", "here"], "--output is for a launcher that stays"),
]


@pytest.mark.parametrize(("arguments", "words"), LOST, ids=[words for _, words in LOST])
def test_an_option_that_would_be_ignored_is_refused(arguments, words, complaint, folder):
    assert words in complaint(arguments, 2)
    assert not (folder / "state").exists()


@pytest.mark.parametrize(
    ("settings", "command", "arguments", "is_refused"),
    [
        ('preset = "quick"', "run", OWN, False),  # the file is for other searches too
        (f'objective = "{OBJECTIVE}"', "run", ["--preset", "quick", "--space", "own.toml"], True),
        ("epochs = 5", "run", ["--fix", "epochs=7"], False),
        ('fix = "epochs=7"', "run", ["--epochs", "5"], True),
        ('from-study = "a"', "run", ["--algorithm", "random"], False),
        ("lease = 30", "launch", ["--no-wait"], False),
    ],
)
@pytest.mark.parametrize("place", ["file", "environment"])
def test_only_what_was_meant_for_this_command_is_refused(
    settings, command, arguments, is_refused, place, folder, monkeypatch, complaint
):
    def nothing_was_refused(mongo):
        raise click.ClickException("went on")

    monkeypatch.setattr(searching, "opened", nothing_was_refused)
    name, value = settings.split(" = ")
    if place == "file":
        (folder / "larnn-search.toml").write_text(settings)
    else:
        monkeypatch.setenv("LARNN_" + name.upper().replace("-", "_"), value.strip('"'))
    line = complaint([command, "--study", "s", *arguments], 2 if is_refused else 1)
    assert ("went on" in line) is not is_refused


@pytest.mark.parametrize("name", ["a.b", "$where", "a b", "a/b", "a\0b", "-", "x" * 300, ""])
@pytest.mark.mongo
def test_odd_names_of_studies(name, database, complaint):
    line = complaint(["run", f"--study={name}", *OWN], 2)
    assert "a study name has 1 to 64 letters, digits, '-' and '_'" in line
    for command in ("status", "trials", "delete"):
        assert "no study is named" in complaint([command, "--", name or " "], 2)
    for command in ("worker", "feed"):
        assert "a study name has" in complaint([command, f"--study={name}"], 2)


# -- a study that is there -----------------------------------------------------------------------


@pytest.fixture
def finished(database):
    """A study of one finished and one waiting trial."""
    space = {
        "name": "own",
        "rows": [{"name": "x", "kind": "uniform", "low": -5.0, "high": 5.0}],
        "fixed": {},
        "derive": None,
    }
    database.create_study(StudySpec("s", OBJECTIVE, space))
    database.add_trials("s", None, 0, [NewTrial({"x": 1.0}, 0), NewTrial({"x": 2.0}, 0)])
    trial = database.reserve("s", "w", "h", "t")
    database.finish(trial.claim, Outcome(TrialState.COMPLETE, 1.0))
    return database


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["run", "--study", "s", *OWN[:2], "--space", "other.toml"], 2, "other settings: space"),
        (
            ["run", "--study", "s", *OWN, "--fix", "data=mine"],
            2,
            'fixed.data is absent, asked for "mine"',
        ),
        (["run", "--study", "s", *OWN, "--seed", "1"], 2, "seed is 0, asked for 1"),
        (["run", "--study", "s"], 2, "exists with other settings: objective is"),
        (["status", "t"], 2, "no study is named 't'; there are s"),
        (["show", "s", "7"], 2, "has no trial 7"),
        (["show", "s", "-1"], 2, "-1"),
        (["show", "s", "one"], 2, "'one' is not a valid integer"),
        (["retry", "s", "0"], 2, "only a FAILED or CANCELLED trial can be run again"),
        (["cancel", "s", "0"], 2, "only a WAITING or RUNNING trial can be cancelled"),
        (["trials", "s", "--state", "DONE"], 2, "'DONE' is not one of"),
        (["enqueue", "s", "--params", '{"x": 9}'], 2, "'x' must be between -5 and 5, got 9"),
        (["logs", "s", "1"], 1, "has kept no output"),
        (["mongo", "start", "now"], 2, "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
@pytest.mark.mongo
def test_a_mistake_leaves_the_study_as_it_is(arguments, status, words, finished, folder, complaint):
    (folder / "other.toml").write_text(SPACE.replace("5.0", "6.0"))
    before = finished.get_study("s"), finished.list_trials("s")
    assert words in complaint(arguments, status)
    assert (finished.get_study("s"), finished.list_trials("s")) == before
    assert len(finished.list_studies()) == 1


@pytest.mark.mongo
def test_other_data_than_a_study_had_are_refused(folder, database, complaint, larnn):
    np.savez(folder / "mine.npz", **arrays())
    np.savez(folder / "other.npz", **arrays())
    study = ["launch", "--study", "d", "--no-wait", "--data"]
    larnn(*study, "npz:mine.npz")
    assert 'asked for "npz:other.npz". Take' in complaint([*study, "npz:other.npz"], 2)
    assert len(database.list_studies()) == 1
    np.savez(folder / "mine.npz", **{**arrays(), "x": arrays()["x"] + 1})
    line = complaint([*study, "npz:mine.npz"], 2)
    assert "exists with other settings: its data are other ones. Take" in line
    assert len(database.list_studies()) == 1


def interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.mongo
def test_what_is_not_said_stays_as_it_was(finished, larnn):
    larnn("launch", "--study", "s", *OWN, "--no-wait", "--max-trials", "500", "--timeout", "900")
    larnn("launch", "--study", "s", *OWN, "--no-wait", "--priority", "3")
    spec = finished.get_study("s").spec
    assert (spec.max_trials, spec.timeout_s, spec.priority) == (500, 900, 3)


@pytest.mark.mongo
def test_nothing_of_a_study_goes_for_good_without_a_yes(finished, monkeypatch, complaint, larnn):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert "confirm with --yes" in complaint(["delete", "s"], 2)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("click.confirm", lambda text: "for good" not in text)
    assert "is left as it is" in complaint(["cancel", "s"], 1)
    assert finished.get_study("s").state is StudyState.ACTIVE
    larnn("cancel", "s", "--yes")
    assert finished.get_study("s").state is StudyState.CANCELLED


@pytest.mark.mongo
def test_ctrl_c_says_how_to_go_on_where_something_does(finished, monkeypatch, complaint):
    monkeypatch.setattr("search.following._follow", interrupted)
    monkeypatch.setattr("search.commands.reading._watch", interrupted)
    line = complaint(["launch", "--study", "s", *OWN, "--pruner", "none"], 130)
    assert line.endswith("left; study s goes on, `larnn-search stop s` ends it")
    assert complaint(["status", "s", "--watch"], 130).endswith(": stopped")


@pytest.mark.mongo
def test_a_paused_study_names_what_resumes_it(finished, monkeypatch, capsys):
    finished.set_study_state("s", StudyState.PAUSED)
    monkeypatch.setattr("search.following._follow", interrupted)
    run_command(["launch", "--study", "s", *OWN])
    assert "it goes on with: larnn-search resume s" in capsys.readouterr().err


@pytest.mark.mongo
def test_a_study_whose_budget_is_spent_is_not_resumed(finished, complaint):
    finished.create_study(dataclasses.replace(finished.get_study("s").spec, max_trials=1))
    finished.set_study_state("s", StudyState.COMPLETE)
    assert "give it a larger budget first" in complaint(["resume", "s"], 2)
    assert finished.get_study("s").state is StudyState.COMPLETE


@pytest.mark.mongo
def test_no_is_no(finished, monkeypatch, capsys):
    monkeypatch.setattr("click.confirm", lambda text: False)
    assert run_command(["delete", "s"]) == 1
    assert capsys.readouterr().err == "larnn-search: study s is left as it is\n"
    assert finished.get_study("s")


@pytest.mark.mongo
@pytest.mark.parametrize("has_trials", [True, False])
def test_a_study_that_cannot_be_read_can_be_deleted(finished, larnn, has_trials):
    finished.database["studies"].update_one({"_id": "s"}, {"$set": {"spec": None}})
    if not has_trials:
        finished.database["trials"].delete_many({"study": "s"})
    assert larnn("delete", "s", "--yes") == "Study s is deleted.\n"
    assert finished.database["studies"].find_one({"_id": "s"}) is None


@pytest.mark.mongo
def test_studies_counts_as_the_budget_does(finished, larnn):
    finished.cancel_trial("s", 1)
    assert " 1/∞ " in larnn("studies")
    told = json.loads(larnn("launch", "--study", "t", *OWN, "--no-wait", "--json"))
    assert told == {"study": "t", "state": "ACTIVE"}


# -- the database and its machine ----------------------------------------------------------------


def test_a_password_file_that_is_no_text_is_named(tmp_path, complaint):
    file = tmp_path / "password"
    file.write_bytes(b"\xff\xfe")
    files = [f"--{user}-password-file={file}" for user in ("worker", "reader")]
    told = complaint(["mongo", "users", "--mongo", "mongodb://root@h/larnn_search", *files], 2)
    assert f"the file that --worker-password-file names cannot be read: {file}" in told


def test_an_unreachable_database_is_told_within_5_seconds(monkeypatch):
    monkeypatch.setenv("LARNN_MONGO_URI", "mongodb://me:secret@127.0.0.1:1/larnn_search")
    command = [sys.executable, "-P", "-m", "search", "studies"]
    started = time.monotonic()  # by the wall, as users wait: the program's own start included
    done = subprocess.run(command, capture_output=True, text=True)
    assert time.monotonic() - started < promised(5)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "cannot reach MongoDB at 127.0.0.1:1 " in line
    assert "secret" not in line


@pytest.mark.mongo
def test_a_wrong_password_is_told_and_not_shown(guarded, folder, monkeypatch, complaint):  # noqa: F811  # a fixture
    (folder / "password").write_text("a-wrong-secret")
    monkeypatch.setenv("LARNN_MONGO_PASSWORD_FILE", "password")
    line = complaint(["studies", "--mongo", guarded.replace("USER", "worker")], 1)
    assert "refuses the login" in line
    assert "a-wrong-secret" not in line


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("mongodb://me:secret@localhost/", "a password in --mongo can be read by everyone"),
        ("localhost:27017", "the MongoDB URI cannot be used"),
    ],
)
def test_an_address_that_cannot_be_used(uri, words, complaint):
    line = complaint(["studies", "--mongo", uri], 2)
    assert words in line
    assert "secret" not in line


def test_no_mongod_is_found(folder, monkeypatch, complaint):
    monkeypatch.delenv("LARNN_MONGOD", raising=False)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("trials.mongod.importlib.util.find_spec", lambda name: None)
    line = complaint(["studies"], 1)
    assert "no mongod was found on this machine: install MongoDB" in line
    assert "LARNN_MONGO_URI" in line


def test_a_mongod_that_lacks_a_library_names_the_package(folder, monkeypatch, complaint):
    program = folder / "mongod"
    program.write_text(
        "#!/bin/sh\necho 'mongod: error while loading shared libraries: libcurl.so.4: cannot open "
        "shared object file: No such file or directory' >&2\nexit 127\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("LARNN_MONGOD", str(program))
    line = complaint(["studies"], 1)
    assert "lacks the library libcurl.so.4" in line
    assert "apt-get install libcurl4" in line


def test_a_state_folder_in_a_place_that_is_none(folder, monkeypatch, complaint):
    (folder / "file").touch()
    monkeypatch.setenv("LARNN_STATE_DIR", str(folder / "file" / "state"))
    assert "cannot write to the state folder" in complaint(["studies"], 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_state_folder_that_may_not_be_written(folder, monkeypatch, complaint):
    locked = folder / "locked"
    locked.mkdir(mode=0o500)
    monkeypatch.setenv("LARNN_STATE_DIR", str(locked / "state"))
    assert "cannot write to the state folder" in complaint(["studies"], 1)


@pytest.mark.mongo
def test_a_full_disk_is_named(folder, monkeypatch, complaint):
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small disk here")
    try:
        with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        monkeypatch.setenv("LARNN_STATE_DIR", str(disk / "state"))
        line = complaint(["studies"], 1)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert "cannot write to the state folder" in line
    assert "full" in line


@pytest.mark.mongo
@pytest.mark.parametrize("mistake", ["NaN", "one class", "one person", "labels too few"])
def test_data_that_cannot_be_used(mistake, folder, complaint):
    change, message = MISTAKES[mistake]
    np.savez(folder / "mine.npz", **{**arrays(), **change})
    assert re.search(message, complaint(["run", "--study", "s", "--data", "npz:mine.npz"], 2))


@pytest.mark.mongo
def test_figures_that_cannot_be_written_are_told_before_the_study_is(folder, database, complaint):
    (folder / "results").mkdir()
    (folder / "results" / "s").touch()
    for command in ("run", "launch"):
        assert "cannot write results/s" in complaint([command, "--study", "s", *OWN], 2)
    assert database.list_studies() == []


def test_figures_that_cannot_be_written(folder, complaint):
    (folder / "results").touch()
    assert "results" in complaint(["run", "--study", "s", *OWN, "--output", "results"], 2)
