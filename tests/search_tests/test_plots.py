import dataclasses
import math
import re
import time
from datetime import timedelta

import matplotlib as mpl
import numpy as np
import pytest

from search import importance, plot_style, plots, results
from search.figure_kinds import kinds_of
from search.parameter import Parameter
from search.ranking import ranked
from search.source import StudyData
from search.space import Space
from tests.search_tests.sample_study import ROWS, START, sample_study, sample_trials
from trials.trial import Report, TrialState

SPACE = Space.from_dict(sample_study().spec.space)


def drawn(kind, trials):
    return plots.draw(kind, StudyData(sample_study(), tuple(trials)))


def words(figure):
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_text()]


@pytest.mark.parametrize("kind", kinds_of("search"))
@pytest.mark.parametrize("count", [1, 40])
def test_every_kind_draws_studies_of_every_size_at_readme_width(kind, count, tmp_path):
    figure = drawn(kind, sample_trials(count))
    plots.save_figure(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
    assert figure.get_size_inches()[0] == 8.0


@pytest.mark.parametrize("kind", kinds_of("search"))
@pytest.mark.parametrize("count", [0, 2])
def test_a_study_without_results_gets_a_figure_that_says_so(kind, count):
    trials = [] if count == 0 else sample_trials(count, running=count)
    trials = [dataclasses.replace(trial, reports=()) for trial in trials]
    texts = " ".join(words(drawn(kind, trials)))
    if not (kind == "timeline" and count):
        assert "Nothing to show" in texts


def time_of(draw, tmp_path):
    """Seconds of this process until a figure is in its file: other tests share the cores."""
    start = time.process_time()
    plots.save_figure(draw(), tmp_path / "figure.png")
    return time.process_time() - start


def plain_figure():
    figure = mpl.figure.Figure(figsize=(8, 5), layout="constrained")
    for axes in figure.subplots(2, 3).flat:
        axes.plot(range(100))
        axes.set(title="title", xlabel="x", ylabel="y")
    return figure


@pytest.fixture(scope="module")
def many():
    """A study of a thousand trials, its tables made."""
    data = StudyData(sample_study(), tuple(sample_trials(1000)))
    assert len(data.frame) == 1000
    assert len(data.reports) > 1000
    return data


@pytest.mark.parametrize("kind", kinds_of("search"))
def test_a_thousand_trials_draw_in_under_two_seconds(kind, many, tmp_path):
    """On a core where a plain figure takes half a second; on a slower one, in its four times."""

    def draw():
        importance._grown.cache_clear()  # another figure of these trials may have been before
        return plots.draw(kind, many)

    time_of(lambda: drawn(kind, sample_trials(30)), tmp_path)  # imports, fonts
    # The core's pace changes from second to second: once is proof.
    assert any(
        time_of(draw, tmp_path) < max(2.0, 4 * time_of(plain_figure, tmp_path)) for _ in range(5)
    )


def test_best_line_is_the_running_minimum_of_complete_trials():
    trials = sample_trials(60)
    figure = drawn("best", trials)
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "best so far"]
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    expected = np.minimum.accumulate([trial.loss for trial in complete])
    assert list(line.get_xdata()[:-1]) == [trial.number for trial in complete]
    np.testing.assert_allclose(line.get_ydata()[:-1], expected)
    winner = ranked(sample_study(), trials)[0].trial
    assert f"trial {winner.number}: {winner.loss:.4g}" in words(figure)


def test_best_over_time_counts_minutes_from_the_studys_creation():
    trials = sample_trials(12)
    (line,) = [
        line
        for line in drawn("best-time", trials).axes[0].lines
        if line.get_label() == "best so far"
    ]
    ends = sorted(t.finished_at for t in trials if t.state == "COMPLETE")
    assert line.get_xdata()[0] == pytest.approx((ends[0] - START) / timedelta(minutes=1))


@pytest.mark.parametrize("kind", kinds_of("search"))
@pytest.mark.parametrize(
    ("state", "loss"), [(TrialState.FAILED, None), (TrialState.PRUNED, math.inf)]
)
def test_a_study_whose_trials_all_failed_or_diverged_is_no_bug(kind, state, loss):
    trials = [
        dataclasses.replace(trial, state=state, loss=loss, reports=()) for trial in sample_trials(3)
    ]
    told = " ".join(words(drawn(kind, trials)))
    if kind in ("best", "best-time"):
        assert "no trial has finished with a loss" in told


def test_an_objective_that_has_only_reported_step_0_has_curves():
    trials = [
        dataclasses.replace(trial, reports=(Report(0, 0.5, {}, 1.0),))
        for trial in sample_trials(3, running=3)
    ]
    assert "Learning curves (n = 3 trials)" in words(drawn("curves", trials))


def test_losses_beyond_the_axis_are_counted_and_nan_is_left_out():
    trials = sample_trials(40)
    complete = [t.number for t in trials if t.state == "COMPLETE"]
    trials[complete[0]] = dataclasses.replace(trials[complete[0]], loss=1e9)
    trials[complete[1]] = dataclasses.replace(trials[complete[1]], loss=math.nan)
    figure = drawn("settings", trials)
    assert "validation loss (nats), 1 above" in words(figure)
    assert figure.axes[0].get_ylim()[1] < 10


def test_settings_have_a_panel_each_with_real_values_and_log_axes_where_the_prior_is():
    figure = drawn("settings", sample_trials(60))
    panels = {axes.get_xlabel(): axes for axes in figure.axes if axes.get_xlabel()}
    assert panels["learning_rate"].get_xscale() == "log"
    assert panels["dropout"].get_xscale() == "linear"
    labels = [tick.get_text() for tick in panels["attention_activation"].get_xticklabels()]
    assert labels == ["none", "elu", "relu", "gelu", "tanh"]
    conditional = [name for name in panels if name.startswith("decay_factor")]
    given = sum(
        t.state in ("COMPLETE", "PRUNED") and "decay_factor" in t.params for t in sample_trials(60)
    )
    assert conditional == [f"decay_factor (n = {given})"]


@pytest.mark.parametrize(
    ("kind", "low", "high", "labels"),
    [
        ("loguniform", 0.0030327, 0.0082436, ["0.00303", "0.005", "0.00824"]),
        ("loguniform", 35.13, 116.6, ["35.1", "64", "117"]),
        ("loguniform", 3e-4, 3e-2, ["0.001", "0.01"]),
        ("logint", 5, 7, ["5", "6", "7"]),
        ("logint", 5, 6, ["5", "6"]),
        ("logint", 33, 60, ["33", "44", "60"]),
        ("logint", 4, 64, ["4", "8", "16", "32", "64"]),
    ],
)
def test_log_axes_have_numbers_to_read_them_by(kind, low, high, labels):
    figure = mpl.figure.Figure()
    axes = figure.add_subplot()
    plot_style.setting_axis(axes, Parameter("x", kind, low, high))
    figure.draw_without_rendering()
    left, right = axes.get_xlim()
    shown = [tick for tick in axes.xaxis.get_major_ticks() if left <= tick.get_loc() <= right]
    told = [tick.label1.get_text() for tick in shown]
    powers = {r"$\mathdefault{10^{-3}}$": "0.001", r"$\mathdefault{10^{-2}}$": "0.01"}
    assert [powers.get(text, text) for text in told] == labels


TAKEN = {"norm": "origin", "mode": "state", "dropout": "steps"}


def shapes(figure):
    """Where the dots and lines of a figure are."""
    figure.draw_without_rendering()
    return [
        (part.get_offsets(), [path.vertices for path in part.get_paths()])
        for part in figure.findobj(mpl.collections.Collection)
    ]


@pytest.mark.parametrize(
    "kind", ["importance", "effects", "interactions", "settings", "choices", "parallel"]
)
def test_a_setting_named_like_a_column_of_trials_is_drawn_as_any_other(kind):
    def renamed(settings):
        return {TAKEN.get(name, name): value for name, value in settings.items()}

    trials, study = sample_trials(30), sample_study()
    plain = drawn(kind, trials)
    rows = [{**row, "name": TAKEN.get(row["name"], row["name"])} for row in ROWS]
    spec = dataclasses.replace(study.spec, space={"name": "own", "rows": rows})
    trials = [dataclasses.replace(trial, params=renamed(trial.params)) for trial in trials]
    figure = plots.draw(kind, StudyData(dataclasses.replace(study, spec=spec), tuple(trials)))
    told = "\n".join(words(plain))
    for name, taken in TAKEN.items():
        told = re.sub(rf"\b{name}\b", taken, told)
    assert "\n".join(words(figure)) == told
    np.testing.assert_equal(shapes(figure), shapes(plain))


@pytest.mark.parametrize("kind", ["importance", "interactions", "effects", "settings", "choices"])
def test_dollars_are_no_mathematics(kind):
    def renamed(value):
        return "${a}_${b" if value == "residual" else value

    trials = [
        dataclasses.replace(t, params={
            "$1^$" if name == "mode" else name: renamed(value) for name, value in t.params.items()
        })
        for t in sample_trials(30)
    ]  # fmt: skip
    rows = [
        {**row, "name": "$1^$", "choices": list(map(renamed, row["choices"]))}
        if row["name"] == "mode" else row
        for row in ROWS
    ]  # fmt: skip
    space = {"name": "own", "rows": rows}
    spec = dataclasses.replace(sample_study().spec, space=space)
    study = dataclasses.replace(sample_study(), spec=spec)
    figure = plots.draw(kind, StudyData(study, tuple(trials)))
    figure.draw_without_rendering()  # TeX that is none would be refused
    assert any(r"\$1^\$" in text for text in words(figure))


@pytest.mark.parametrize("kind", ["settings", "choices"])
def test_a_title_explains_pruned_trials_where_there_are_some(kind):
    trials = sample_trials(60)
    title = drawn(kind, trials).get_suptitle()
    assert "triangle: pruned" in title
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    assert "pruned" not in drawn(kind, complete).get_suptitle()


def test_a_setting_that_no_trial_has_gets_no_panel():
    space = Space("other", (*SPACE.rows, Parameter("hidden_size", "loguniform", 8, 64)))
    frame = results.trials_frame(sample_trials(12), sample_study())
    panels = [axes.get_xlabel() for axes in plots.loss_against_settings(frame, space).axes]
    assert "window_size" in panels
    assert "hidden_size" not in panels


def test_heat_map_shows_the_least_loss_and_the_trials_of_each_cell():
    trials = [t for t in sample_trials(200) if t.state == "COMPLETE"]
    cells = [text for text in words(drawn("window-heads", trials)) if "\nn=" in text]
    assert sum(int(cell.split("n=")[1]) for cell in cells) == len(trials)
    assert min(float(cell.split("\n")[0]) for cell in cells) == pytest.approx(
        ranked(sample_study(), trials)[0].trial.loss, rel=0.01
    )


def test_heat_map_of_a_study_without_attention_says_why_it_is_empty():
    frame = results.trials_frame(sample_trials(5), sample_study()).drop(columns=["num_heads"])
    assert "no window_size and num_heads" in " ".join(words(plots.window_heads_heatmap(frame)))


def test_parallel_lines_break_at_settings_without_a_value():
    trials = [t for t in sample_trials(60) if t.state == "COMPLETE"]
    figure = drawn("parallel", trials)
    lines = np.stack([path.vertices for path in figure.axes[0].collections[0].get_paths()])
    place = [row.name for row in SPACE.rows].index("decay_factor")
    missing = np.isnan(lines[:, place, 1]).sum()
    assert missing == sum("decay_factor" not in t.params for t in trials) > 0
    assert not np.isnan(np.delete(lines[:, :, 1], place, axis=1)).any()


def test_timeline_has_a_lane_a_slot():
    axes = drawn("timeline", sample_trials(60)).axes[0]
    assert axes.get_title(loc="left").startswith("Up to 4 trials at a time; ")
    lanes = [label.get_text() for label in axes.get_yticklabels()]
    assert lanes == ["ares-4711-k3", "slot 2", "boreas-902-x7", "slot 2"]


def sittings():
    """Two workers for a minute, an hour's pause, one other for two; half a minute idle in all."""
    runs = [("b", 0, 60), ("c", 0, 30), ("a", 3660, 3720), ("a", 3720, 3780), ("d", 3660, 3780)]
    return [
        dataclasses.replace(
            trial,
            worker=worker,
            state=TrialState.COMPLETE,
            started_at=START + timedelta(seconds=begin),
            finished_at=START + timedelta(seconds=end),
        )
        for trial, (worker, begin, end) in zip(sample_trials(5), runs, strict=True)
    ]


def test_pauses_between_sittings_count_as_nobodys_idleness():
    axes = drawn("timeline", sittings()).axes[0]
    assert axes.get_title(loc="left") == "Up to 2 trials at a time; 92% busy while any ran"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "c", "a", "d"]
    assert axes.get_xlabel() == "time in which any trial ran (min)"
    assert max(bar.get_x() + bar.get_width() for bar in axes.patches) == pytest.approx(3)
    axes = drawn("throughput", sittings()).axes[0]
    assert axes.get_title(loc="left").startswith("1.67 trials a minute while any ran; half")
    for kind in ("timeline", "throughput"):
        assert "pause (1)" in words(drawn(kind, sittings()))


def test_the_night_in_which_a_trial_waited_to_be_cancelled_is_not_drawn():
    last = dataclasses.replace(
        sample_trials(6)[-1],
        worker=None,
        state=TrialState.CANCELLED,
        started_at=START,
        finished_at=START + timedelta(hours=15),
    )
    for kind in ("timeline", "throughput"):
        figures = [drawn(kind, trials) for trials in (sittings(), [*sittings(), last])]
        titles = [figure.axes[0].get_title(loc="left") for figure in figures]
        assert titles[0] == titles[1]


def test_curves_of_pruned_trials_end_in_a_mark():
    trials = sample_trials(60)
    pruned = [t for t in trials if t.state == "PRUNED"]
    axes = drawn("curves", trials).axes[0]
    ends = [line for line in axes.lines if line.get_marker() == "v" and len(line.get_xdata())]
    assert sorted(ends[0].get_xdata()) == sorted(t.reports[-1].step for t in pruned)


def test_figures_leave_the_users_style_alone():
    before = dict(mpl.rcParams)
    drawn("best", sample_trials(5))
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("suffix", "magic"),
    [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89")],
)
def test_saved_figures_are_of_the_suffix_type_and_the_same_every_time(tmp_path, suffix, magic):
    written = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.{suffix}"
        plots.save_figure(drawn("best", sample_trials(8)), path)
        written.append(path.read_bytes())
    assert written[0].startswith(magic)
    assert written[0] == written[1]


@pytest.mark.parametrize(("name", "found"), [("a.jpeg", "'.jpeg'"), ("figure", "none")])
def test_another_suffix_is_refused_by_name(tmp_path, name, found):
    with pytest.raises(ValueError, match=rf"\.png, \.svg, \.pdf; .* ends in {found}"):
        plots.save_figure(drawn("best", sample_trials(3)), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        ("search.objective:train_larnn", "validation loss (nats)"),
        ("search.judging:train_and_judge", "judged people's loss (nats)"),
        ("larnn_2018.train:optimize_model", "test people's loss (nats)"),
        ("mine:objective", "loss"),
    ],
)
@pytest.mark.parametrize("kind", ["best", "curves", "settings", "choices", "effects"])
def test_axes_name_the_loss_that_the_objective_has(objective, name, kind):
    study = sample_study()
    study = dataclasses.replace(study, spec=dataclasses.replace(study.spec, objective=objective))
    trials = [trial for trial in sample_trials(20) if trial.state == "COMPLETE"]
    figure = plots.DRAW[kind](StudyData(study, tuple(trials)))
    if kind == "curves" and objective == "search.judging:train_and_judge":
        name = "training loss (nats)"  # nobody is judged before the end
    assert name in {text.split(", ")[0].removesuffix(" to expect") for text in words(figure)}


def test_trials_that_were_the_best_so_far_stand_out_among_the_settings():
    trials = sample_trials(60)
    axes = drawn("settings", trials).axes[0]
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    least = np.minimum.accumulate([trial.loss for trial in complete])
    leads = [t for t, best in zip(complete, least, strict=True) if t.loss == best]
    (coloured,) = [dots for dots in axes.collections if dots.get_array() is not None]
    expected = [[trial.params["window_size"], trial.loss] for trial in leads]
    np.testing.assert_allclose(coloured.get_offsets(), expected)
