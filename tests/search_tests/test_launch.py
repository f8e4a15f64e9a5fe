"""What a user asks for on the command line becomes one study: who wins over whom."""

import dataclasses

import pytest

from search import launch, pool
from search.launch import Request, build_spec, spec_again
from search.options import memory_size
from search.presets import PRESETS
from search.space import Space

FILE = """
epochs = 7
cell = "lstm"

[hidden_size]
type = "int"
low = 4
high = 8

[dropout]
type = "uniform"
low = 0.0
high = 0.5
"""


@pytest.fixture(autouse=True)
def _no_data(monkeypatch):
    monkeypatch.setattr(launch, "_data_fingerprint", lambda fixed, say: f"of {fixed['data']}")


def spec_of(**request):
    return build_spec(Request("s", **request), print)


def test_a_preset_alone_is_a_study():
    spec = spec_of(preset="quick")
    preset = PRESETS["quick"]
    assert Space.from_dict(spec.space) == preset.space_of()
    assert spec.fixed == {**preset.fixed, "data": "har"}
    for cell in ("lstm", "bn-lstm", "residual-bi-lstm"):
        space = preset.space_of(cell)
        width = space["hidden_size"]
        assert max(width.choices or width.bounds) == 48
        assert space["num_layers"].high == 2
        assert space.fixed["cell"] == cell
    assert spec.max_trials == preset.max_trials
    assert spec.requirements == {"data_fingerprint": "of har"}


def test_options_go_before_the_space_and_that_before_the_preset(tmp_path):
    (tmp_path / "own.toml").write_text(FILE)
    own = str(tmp_path / "own.toml")
    spec = spec_of(preset="quick", space=own)
    assert spec.space["fixed"] == {"epochs": 7, "cell": "lstm"}
    assert spec.fixed["batch_size"] == PRESETS["quick"].fixed["batch_size"]
    assert "epochs" not in spec.fixed
    assert spec_of(preset="quick", space=own, epochs=2).fixed["epochs"] == 2
    assert spec_of(preset="quick", max_trials=3).max_trials == 3


def test_a_space_may_search_what_the_preset_pins(tmp_path):
    (tmp_path / "own.toml").write_text(
        '[batch_size]\ntype = "logint"\nlow = 16\nhigh = 256\n'
        '[epochs]\ntype = "int"\nlow = 2\nhigh = 9\n'
        '[time_stride]\ntype = "int"\nlow = 1\nhigh = 4\n'
    )
    own = str(tmp_path / "own.toml")
    for preset in PRESETS:
        spec = spec_of(preset=preset, space=own)
        assert spec.fixed == {"data": "har"}
        assert [row["name"] for row in spec.space["rows"]] == [
            "batch_size",
            "epochs",
            "time_stride",
        ]
    said = Space.from_dict(spec_of(space=own, epochs=2).space)
    assert [row.name for row in said.rows] == ["batch_size", "time_stride"]
    assert said.fixed == {"epochs": 2}


def test_a_study_goes_on_as_it_was_where_nothing_else_is_said():
    old = spec_of(preset="quick", fix=("dropout=0.1",), max_trials=60, patience=9, threads=2)

    def again(given=(), **request):
        return spec_again(old, Request("s", **request), {"study", *given}, print)

    assert again() == old
    more = again({"max_trials", "pruner"}, max_trials=80, pruner="none")
    assert more == dataclasses.replace(old, max_trials=80, pruner={"name": "none"})
    # Who says what a study keeps for good says it all; limits stay all the same.
    same = again({"preset", "fix", "threads"}, preset="quick", fix=("dropout=0.1",), threads=2)
    assert same == old
    other = again({"preset"}, preset="quick")
    assert other.space != old.space
    assert (other.max_trials, other.patience) == (60, 9)


def test_an_objective_is_never_run_because_a_database_names_it(tmp_path):
    (tmp_path / "own.toml").write_text('[x]\ntype = "uniform"\nlow = 0.0\nhigh = 1.0\n')
    old = spec_of(objective="os:getcwd", space=str(tmp_path / "own.toml"))
    assert spec_again(old, Request("s"), {"study"}, print).objective == launch.DEFAULT_OBJECTIVE


def test_a_grid_goes_on_within_its_size(tmp_path):
    (tmp_path / "own.toml").write_text('[num_layers]\ntype = "int"\nlow = 1\nhigh = 3\n')
    old = spec_of(space=str(tmp_path / "own.toml"), algorithm="grid", max_trials=2)
    assert spec_again(old, Request("s", max_trials=9), {"max_trials"}, print).max_trials == 3


def test_a_space_may_pin_its_data(tmp_path):
    (tmp_path / "own.toml").write_text('data = "npz:mine.npz"' + FILE)
    own = str(tmp_path / "own.toml")
    spec = spec_of(preset="quick", space=own)
    assert {**spec.space["fixed"], **spec.fixed}["data"] == "npz:mine.npz"
    assert spec.requirements == {"data_fingerprint": "of npz:mine.npz"}
    said = spec_of(preset="quick", space=own, data="uci-har")
    assert said.fixed["data"] == "uci-har"
    assert said.requirements == {"data_fingerprint": "of uci-har"}


@pytest.mark.parametrize("cell", ["lstm", "bn-lstm", "residual-bi-lstm"])
def test_a_fixed_cell_is_searched_in_its_own_space(cell):
    spec = spec_of(preset="quick", fix=(f"cell={cell}",))
    searched = [row["name"] for row in spec.space["rows"]]
    assert "hidden_size" in searched
    assert "window_size" not in searched
    assert {**spec.space["fixed"], **spec.fixed}["cell"] == cell
    assert spec_of(preset="quick", fix=("cell=larnn",)).space["name"] == "card-quick"
    with pytest.raises(ValueError, match=f"cell '{cell}' has no "):
        spec_of(space="card", fix=(f"cell={cell}",))


def test_a_cell_is_a_choice_with_rows_of_its_own(tmp_path):
    (tmp_path / "both.toml").write_text(
        '[cell]\ntype = "choice"\nchoices = ["larnn", "lstm"]\n'
        '[window_size]\ntype = "int"\nlow = 4\nhigh = 9\nwhen = {cell = "larnn"}\n'
        '[hidden_size]\ntype = "int"\nlow = 4\nhigh = 9\nwhen = {cell = "lstm"}\n'
    )
    spec = spec_of(space=str(tmp_path / "both.toml"))
    assert [row["name"] for row in spec.space["rows"]] == ["cell", "window_size", "hidden_size"]


def test_fix_takes_a_searched_parameter_away(tmp_path):
    (tmp_path / "own.toml").write_text(FILE)
    spec = spec_of(space=str(tmp_path / "own.toml"), fix=("dropout=0.25", "num_layers=2"))
    assert [row["name"] for row in spec.space["rows"]] == ["hidden_size"]
    assert spec.space["fixed"]["dropout"] == 0.25
    assert spec.fixed["num_layers"] == 2


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"fix": ("dropuot=0.1",)}, "unknown parameter 'dropuot'"),
        ({"fix": ("dropout=1.5",)}, "dropout must be below 1, got 1.5"),
        ({"fix": ("hidden_size=8",), "space": "card"}, "hidden_size of a larnn follows"),
        ({"space": "paper-round-1", "fix": ("num_heads=4",)}, "num_heads .* cannot be fixed"),
    ],
)
def test_what_no_trial_could_train_is_refused_at_once(request_, words):
    with pytest.raises(ValueError, match=words):
        spec_of(**request_)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 * 2**30), ("800 mb", 800 * 2**20), ("1.5GiB", 3 * 2**29), ("123", 123), (123, 123)],
)
def test_memory_is_written_as_people_do(text, size):
    assert memory_size(text) == size


# -- on how many cores ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threads", "gpus", "workers"),
    [(1, 0, 2), (2, 0, 2), (3, 0, 1), (8, 0, 1), (1, 1, 2), (8, 1, 1), (1, 4, 4)],
)
def test_run_starts_no_more_workers_than_the_cores_take_or_there_are_gpus(
    monkeypatch, threads, gpus, workers
):
    monkeypatch.setattr(pool, "usable_cores", lambda: 4)
    assert pool.fitting_workers(threads, [str(gpu) for gpu in range(gpus)]) == workers


@pytest.mark.mongo
@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("slots", "gpus", "devices", "cores"),
    [
        ("auto", "", ("cpu",) * 6, 6),
        ("2", "", ("cpu",) * 2, 6),
        ("8", "", ("cpu",) * 8, 8),
        ("auto", "0,1", ("cuda:0", "cuda:1"), None),
    ],
)
def test_slots_on_cpu_share_the_cores(monkeypatch, larnn, slots, gpus, devices, cores):
    told = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr("trials.devices.usable_cores", lambda: 6)
    monkeypatch.setattr("trials.worker.run_worker", lambda store, settings: told.append(settings))
    larnn("worker", "--slots", slots)
    assert [(one.slots, one.cores) for one in told] == [(devices, cores)]
