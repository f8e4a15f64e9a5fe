"""The command line: every command explains itself, imports little, and complains in one line."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from search.cli import cli, run_command
from search.config_file import defaults_from_file
from search.options import CONFIG_FILE
from tests.search_tests.sample_study import sample_study, sample_trials
from trials.study import StudySpec, StudyState


def leaves(group: click.Group, path: tuple[str, ...] = ()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


ALL_COMMANDS = dict(leaves(cli))


@pytest.mark.parametrize("path", ALL_COMMANDS, ids=" ".join)
def test_every_command_and_option_is_explained(path, capsys):
    assert run_command([*path, "--help"]) == 0
    shown = capsys.readouterr().out
    command = ALL_COMMANDS[path]
    assert command.get_short_help_str()
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, f"{parameter.name} has no help"
            assert parameter.opts[0] in shown


HEAVY = {"torch", "hyperopt", "sklearn", "scipy", "pandas", "matplotlib", "numpy"}


def modules_of(*arguments):
    """All that a command imports, in a process of its own."""
    code = (
        f"import sys; from search.cli import run_command; status = run_command({arguments!r});"
        "print(*sys.modules, file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_imports_nothing_heavy():
    assert not modules_of("--help") & (HEAVY | {"pymongo"})


@pytest.mark.mongo
@pytest.mark.parametrize("command", [("status",), ("studies",), ("show", "quick", "0")])
def test_a_look_at_the_queue_imports_nothing_heavy(command, database):
    database.restore_study(sample_study(), sample_trials(3))
    assert not modules_of(*command) & HEAVY


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["run"], 2, "Missing option '--study'"),
        (["run", "--study", "a.b"], 2, "a study name has 1 to 64 letters"),
        (["run", "--study", "x" * 300], 2, "a study name has 1 to 64 letters"),
        (["run", "--study", "s", "--space", "crad"], 2, "unknown space 'crad'"),
        (["run", "--study", "s", "--fix", "window_size=0"], 2, "window_size must be at least 1"),
        (["run", "--study", "s", "--fix", "windowsize=4"], 2, "unknown parameter 'windowsize'"),
        (["run", "--study", "s", "--fix", "window_size"], 2, "name=value"),
        (["run", "--study", "s", "--data", "hra"], 2, "'hra'"),
        (["run", "--study", "s", "--objective", "here:there"], 2, "needs a space of its own"),
        (["spaces", "nowhere.toml"], 2, "nowhere.toml"),
        (["worker", "--slots", "many"], 2, "slots"),
        (
            ["studies", "--mongo", "mongodb://user:secret@localhost/"],
            2,
            "LARNN_MONGO_PASSWORD_FILE",
        ),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_a_mistake_is_answered_in_one_line(arguments, status, words, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LARNN_STATE_DIR", str(tmp_path))
    assert run_command(arguments) == status
    said = capsys.readouterr().err.strip()
    assert words in said
    assert "Traceback" not in said
    assert "secret" not in said
    last = said.splitlines()[-1]
    assert last.startswith("larnn-search: ")


def test_defaults_come_from_the_file_then_the_environment_then_the_option(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / CONFIG_FILE).write_text('slots = "from-file"\n')
    assert run_command(["worker"]) == 2
    assert "from-file" in capsys.readouterr().err
    monkeypatch.setenv("LARNN_SLOTS", "from-environment")
    assert run_command(["worker"]) == 2
    assert "from-environment" in capsys.readouterr().err
    assert run_command(["worker", "--slots", "from-option"]) == 2
    assert "from-option" in capsys.readouterr().err


@pytest.mark.parametrize("said", ["--debug", "LARNN_DEBUG", CONFIG_FILE])
def test_debug_shows_where_an_error_comes_from(said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text("x = ")
    assert run_command(["spaces", "own.toml"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("LARNN_DEBUG", "1" if said == "LARNN_DEBUG" else "")
    if said == CONFIG_FILE:
        monkeypatch.delenv("LARNN_DEBUG")
        (tmp_path / CONFIG_FILE).write_text("debug = true")
    assert run_command([*["--debug"][: said == "--debug"], "spaces", "own.toml"]) == 2
    told = capsys.readouterr().err
    assert "space_file.py" in told
    assert told.splitlines()[-1].startswith("larnn-search: space file own.toml is not TOML")


def test_a_file_of_defaults_that_cannot_be_read_is_named(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.chdir(tmp_path)
    (tmp_path / CONFIG_FILE).touch()
    monkeypatch.setattr(Path, "read_text", refuse)  # root may read everything
    assert run_command(["spaces"]) == 2
    assert f"{CONFIG_FILE} cannot be read: Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "max-trials = 10.9",
            "'--max-trials' (in larnn-search.toml): takes a whole number, got 10.9",
        ),
        ("workers = true", "takes a whole number, got True"),
        ('data = ["har"]', "takes one value, got ['har']"),
        ("data = {x = 1}", "takes a number or text, got {'x': 1}"),
        ("no-test = 2", "takes true or false, got 2"),
        ('fix = ["epochs=1", 2.5, true]', "takes a number or text, got True"),
    ],
)
def test_values_of_the_file_are_not_bent(text, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(text)
    assert run_command(["run", "--study", "s"]) == 2
    assert words in capsys.readouterr().err


def test_flags_have_twins_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LARNN_JSON", "1")
    assert run_command(["spaces"]) == 0
    assert json.loads(capsys.readouterr().out)
    (tmp_path / CONFIG_FILE).write_text("json = true\n")
    monkeypatch.setenv("LARNN_JSON", "0")
    assert run_command(["spaces"]) == 0
    assert not capsys.readouterr().out.startswith("[")


@pytest.mark.parametrize(("text", "words"), [("slots = ", "TOML"), ("slot = 1", "'slot'")])
def test_a_broken_file_of_defaults_is_named(text, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(text)
    assert run_command(["worker"]) == 2
    said = capsys.readouterr().err
    assert CONFIG_FILE in said
    assert words in said


def test_options_of_all_commands_may_stand_in_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(
        'log-format = "xml"\nallow_objective = ["m:f"]\nworker-password-file = "pw"\n'
    )
    assert run_command(["spaces"]) == 2
    said = capsys.readouterr().err
    assert f"Invalid value for '--log-format' (in {CONFIG_FILE}): 'xml'" in said
    (tmp_path / CONFIG_FILE).write_text('worker-password-file = "none-such"\n')
    assert run_command(["mongo", "users"]) == 2
    assert f"'--worker-password-file' (in {CONFIG_FILE})" in capsys.readouterr().err


def test_one_value_in_the_file_serves_options_that_may_be_repeated_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = 'study = "quick"\nfix = "dropout=0.1"\nfrom-study = ["a", "b"]\n'
    (tmp_path / CONFIG_FILE).write_text(text)
    defaults = defaults_from_file(cli)
    assert defaults["run"] == {"study": "quick", "fix": ["dropout=0.1"], "from_study": ["a", "b"]}
    assert defaults["worker"] == {"studies": ["quick"]}
    with cli.make_context("larnn-search", ["worker"]) as context:
        worker = cli.commands["worker"].make_context("worker", [], context)
    assert worker.params["studies"] == ("quick",)


def test_a_complaint_names_where_a_value_came_from(monkeypatch, capsys):
    assert run_command(["worker", "--heartbeat", "0"]) == 2
    assert "for '--heartbeat': 0" in capsys.readouterr().err
    monkeypatch.setenv("LARNN_HEARTBEAT", "0")
    assert run_command(["worker"]) == 2
    assert "for '--heartbeat' (env var: 'LARNN_HEARTBEAT'): 0" in capsys.readouterr().err


@pytest.mark.mongo
def test_what_destroys_is_typed_and_never_taken_from_the_file(
    database, tmp_path, monkeypatch, larnn
):
    database.create_study(StudySpec("d1", "m:f", {}))
    monkeypatch.chdir(tmp_path)
    (tmp_path / CONFIG_FILE).write_text('study = "d1"\n')
    for command in ("cancel", "delete", "stop", "export"):
        assert "Missing argument 'STUDY" in larnn(command, status=2)
    (tmp_path / CONFIG_FILE).write_text("yes = true\n")
    assert "no command has a setting 'yes'" in larnn("delete", "d1", status=2)
    assert [study.state for study in database.list_studies()] == [StudyState.ACTIVE]
