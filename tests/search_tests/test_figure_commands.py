import dataclasses
import html.parser
import json

import pytest

from search.again import ranking_spec
from search.cli import run_command
from search.named_spaces import NAMED_SPACES
from search.report import report, winner_in_words
from search.source import StudyData
from tests.acceptance.documents import ROOT
from tests.search_tests.sample_study import ROWS, sample_study, sample_trials
from trials.transfer import dump


@pytest.fixture
def exported(tmp_path):
    path = tmp_path / "quick.jsonl"
    path.write_text("".join(dump(sample_study(), sample_trials(20))))
    return path


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_plot_draws_an_exported_study_without_a_database(exported, suffix, magic, capsys):
    output = exported.with_suffix(f".{suffix}")
    assert run_command(["plot", str(exported), "settings", "-o", str(output)]) == 0
    assert output.read_bytes().startswith(magic)
    assert capsys.readouterr().out.strip() == str(output)


def exported_with(path, rows, trials):
    """A study that searches ``rows``, as a file of its own."""
    study = sample_study()
    spec = dataclasses.replace(study.spec, space={"name": "own", "rows": rows})
    path.write_text("".join(dump(dataclasses.replace(study, spec=spec), trials)))
    return str(path)


@pytest.fixture
def one_range(tmp_path):
    rows = [row for row in ROWS if row["name"] == "learning_rate"]
    return exported_with(tmp_path / "one.jsonl", rows, sample_trials(20))


@pytest.mark.parametrize(
    ("kind", "status"), [("importance", 0), ("effects", 0), ("interactions", 1)]
)
def test_a_study_of_one_range_alone_is_drawn(kind, status, one_range, tmp_path):
    assert run_command(["plot", one_range, kind, "-o", str(tmp_path / "figure.png")]) == status


def test_a_study_of_one_range_alone_is_reported(one_range, tmp_path):
    assert run_command(["report", one_range, "-o", str(tmp_path / "report.html")]) == 0


def layers_of(**changed):
    return [{**row, **changed} if row["name"] == "num_layers" else row for row in ROWS]


@pytest.mark.parametrize("command", [["plot", "settings"], ["plot", "effects"], ["report"]])
def test_a_damaged_range_is_named_in_one_line(command, tmp_path, capsys):
    file = exported_with(tmp_path / "damaged.jsonl", layers_of(low=4, high=1), sample_trials(20))
    output = tmp_path / ("page.html" if command == ["report"] else "figure.png")
    assert run_command([command[0], file, *command[1:], "-o", str(output)]) == 2
    told = capsys.readouterr().err
    assert "damaged.jsonl is no exported study: parameter 'num_layers' has an empty range" in told
    assert told.count("\n") == 1


def test_trials_outside_of_a_range_do_not_keep_the_others_from_being_shown(tmp_path):
    file = exported_with(tmp_path / "narrowed.jsonl", layers_of(high=2), sample_trials(20))
    assert run_command(["report", file, "-o", str(tmp_path / "report.html")]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plot", "FILE", "settings", "-o", "figure.gif"], ".png, .svg, .pdf"),
        (
            ["plot", "FILE", "settings", "-o", "/nowhere/figure.png"],
            "cannot write /nowhere",
        ),
        (["plot", "FILE", "sketch", "-o", "figure.png"], "'sketch' is not one of"),
        (["plot", "gone.jsonl", "settings", "-o", "figure.png"], "gone.jsonl is no exported"),
        (["report", "FILE", "-o", "report.pdf"], "ends in .html"),
        (["compare"], "Missing argument"),
    ],
)
def test_mistakes_are_named_in_one_line(exported, arguments, words, capsys):
    given = [str(exported) if word == "FILE" else word for word in arguments]
    assert run_command(given) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("study", "kind", "reason"),
    [
        ("har-lstm", "again", "is no ranking or ablation; larnn-search rank and ablate make one"),
        ("har-lstm-test", "again", "is no ranking or ablation"),
        ("har-lstm-rank", "again", None),
        ("har-lstm-test", "timeline", None),
    ],
)
def test_searches_and_what_follows_them_have_figures_of_their_own(
    study, kind, reason, tmp_path, capsys
):
    file, output = ROOT / "results" / "har" / f"{study}.jsonl", tmp_path / "figure.png"
    status = run_command(["plot", str(file), kind, "-o", str(output)])
    assert (status, output.exists()) == ((0, True) if reason is None else (1, False))
    assert reason is None or reason in capsys.readouterr().err


def test_a_figure_that_would_show_nothing_is_not_written(tmp_path, capsys):
    path, output = tmp_path / "lstm.jsonl", tmp_path / "figure.png"
    spec = dataclasses.replace(sample_study().spec, space=NAMED_SPACES["lstm"].to_dict())
    trial = dataclasses.replace(sample_trials(1)[0], params={"hidden_size": 96})
    path.write_text("".join(dump(dataclasses.replace(sample_study(), spec=spec), [trial])))
    assert run_command(["plot", str(path), "window-heads", "-o", str(output)]) == 1
    told = "larnn-search: nothing to show: this study has no window_size and num_heads\n"
    assert capsys.readouterr().err == told
    assert not output.exists()


def test_compare_prints_a_row_a_study_and_the_same_as_json(exported, capsys):
    assert run_command(["compare", str(exported), str(exported)]) == 0
    assert capsys.readouterr().out.count("quick") == 2
    assert run_command(["compare", str(exported), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["finished"] == 20


def test_compare_of_rankings_alone_names_the_command_that_tells_of_them(exported, capsys):
    spec = ranking_spec(StudyData(sample_study(), tuple(sample_trials(20))), count=2, seeds=2)
    ranking = exported.with_name("ranking.jsonl")
    ranking.write_text("".join(dump(dataclasses.replace(sample_study(), spec=spec), ())))
    assert run_command(["compare", str(ranking)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert f"is one: quick-rank; see larnn-search summary {ranking}" in told.err
    assert told.err.count("\n") == 1
    assert run_command(["compare", str(exported), str(ranking)]) == 0
    assert "Left out, for they search nothing: quick-rank" in capsys.readouterr().err


class Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [(tag, name, value) for name, value in attrs if name in ("src", "href")]
        self.found += [(tag, "", "")] if tag in ("script", "link", "iframe") else []


def test_a_report_needs_nothing_but_itself_and_escapes_what_people_wrote(exported):
    trials = sample_trials(20)
    spec_fixed = {"data": "<script>alert(1)</script>"}
    study = sample_study()
    object.__setattr__(study.spec, "fixed", spec_fixed)
    page = report(StudyData(study, tuple(trials)), kinds=("best", "settings"))
    links = Links()
    links.feed(page)
    assert [tag for tag, *_ in links.found] == ["img", "img"]
    assert all(value.startswith("data:image/png;base64,") for *_, value in links.found)
    assert "&lt;script&gt;alert(1)" in page


def test_the_winner_is_told_in_words():
    data = StudyData(sample_study(), tuple(sample_trials(60)))
    told = winner_in_words(data)
    assert told.startswith(f"Trial {data.best.number} won with a validation loss of ")
    assert f"window_size {data.best.params['window_size']}" in told
    assert winner_in_words(StudyData(sample_study(), ())) == "No trial is complete yet."
