"""A look inside a trained classifier, on data of any kind."""

import dataclasses

import numpy as np
import pytest
import torch

from model.cpu import threads_of
from model.evaluation import load_classifier
from search import inside, plot_inside
from search.objective import load_data, train_larnn
from search.source import StudyData
from tests.search_tests.sample_study import START
from tests.search_tests.test_objective import Context
from trials.errors import InvalidValueError, TrialRefusedError
from trials.study import Study, StudySpec, StudyState
from trials.trial import Trial, TrialState

SETTINGS = {"num_layers": 1, "num_heads": 2, "head_size": 2, "window_size": 6, "epochs": 1,
            "batch_size": 16, "positional_encoding": "static"}  # fmt: skip
STEPS = 10
LENGTHS = np.arange(60) % 9 + 2  # 2 to 10


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with threads_of(1):
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Settings, weights and result of a trial on sequences of different length without names."""
    file = tmp_path_factory.mktemp("data") / "mine.npz"
    y, context = np.arange(60) % 3, Context(seed=11)
    context.requirements = {}
    x = np.random.default_rng(0).standard_normal((60, STEPS, 2)) + y[:, None, None]
    x[np.arange(STEPS) >= LENGTHS[:, None]] = np.nan
    np.savez(file, x=x, y=np.array(["a", "b", "c"])[y], length=LENGTHS)
    params = {**SETTINGS, "data": f"npz:{file}"}
    result = train_larnn(params, context)
    return params, context.weights, result


@pytest.fixture
def classifier(trained):
    made = load_classifier(trained[1], "cpu")
    return made, load_data(made.config)


def study_of(trained, **spec):
    """A study in which that trial is all there is; it ran on PyTorch's path."""
    params, _, result = trained
    space = {"name": "own", "rows": [], "fixed": {}}
    spec = {"objective": "search.objective:train_larnn", "space": space, "threads": 1, **spec}
    trial = Trial(
        study="s", number=0, state=TrialState.COMPLETE, params=params, seed=11, loss=result["loss"],
        result={**result, "backend": "torch"}, created_at=START,
    )  # fmt: skip
    return StudyData(Study(StudySpec(name="s", **spec), StudyState.COMPLETE, START), (trial,))


def test_padding_is_not_looked_into(classifier):
    made, data = classifier
    rows = data.indices("validation")
    weights = inside.attention(made, data, rows)
    assert weights.shape == (1, len(rows), 2, STEPS, 6)
    ended = np.arange(STEPS) >= data.length[rows][:, None]
    assert (np.isnan(weights).all((0, 2, 4)) == ended).all()
    assert np.nansum(weights) == pytest.approx(2 * (~ended).sum())
    figure = plot_inside.attention_by_age(weights[-1], 1, "steps")
    lines = figure.axes[0].lines[:2]
    shown = [np.asarray(line.get_ydata()).sum() for line in lines]
    np.testing.assert_allclose(shown, 1, atol=1e-6)  # a mean of shares
    assert figure.axes[0].get_xlabel() == "age of the cell state (steps)"


def test_spread_tells_how_many_cells_a_head_looks_at(classifier):
    # Two layers of one head, three sequences of 5 steps (one of 3), a window of 4.
    alike, newest = np.full((3, 1, 5, 4), 0.25), np.zeros((3, 1, 5, 4))
    newest[..., -1] = 1.0
    weights = np.stack([alike, newest])
    weights[:, 2, :, 3:] = np.nan
    weights[:, :, :, :3, 0] = 9.0  # before the window is full
    table = inside.attention_spread(weights, newest=2)
    assert table[["layer", "head"]].to_numpy().tolist() == [[1, 1], [2, 1]]
    np.testing.assert_allclose(table["cells"], [4.0, 1.0])
    np.testing.assert_allclose(table["newest"], [0.5, 1.0])
    # Sequences that are shorter than the window count at their last steps.
    short = inside.attention_spread(weights[:, 2:, :, 1:3, 1:] / 0.75, newest=2)
    assert len(short) == 2
    assert np.isfinite(short["cells"]).all()
    made, data = classifier
    found = inside.attention_spread(inside.attention(made, data, data.indices("validation")))
    assert len(found) == SETTINGS["num_heads"]
    assert found["cells"].between(1, SETTINGS["window_size"]).all()
    assert found["newest"].between(0, 1).all()


def test_a_window_is_cut_and_ages_stay_as_they_were(classifier):
    made, data = classifier
    table = inside.window_ablation(made, data)
    assert table["window_size"].tolist() == [1, 2, 4, 6]
    right = inside.predictions(made, data).eval("truth == predicted").mean()
    assert table["accuracy"].iloc[-1] == pytest.approx(right)
    x = torch.randn(STEPS, 3, 4)
    whole, cut = made.model.layer, inside._cut(made.model, 3).layer
    assert whole.config.window_size == 6
    # With c_0, three cells at most.
    torch.testing.assert_close(cut(x[:2])[0], whole(x[:2])[0], rtol=0, atol=1e-6)
    assert not torch.allclose(cut(x)[0], whole(x)[0])


def test_attention_is_taken_away_part_by_part(classifier):
    made, data = classifier
    table = inside.attention_ablation(made, data)
    assert table["attention"].tolist() == ["as trained", "to all alike", "none"]
    right = inside.predictions(made, data).eval("truth == predicted").mean()
    assert table["accuracy"].iloc[0] == pytest.approx(right)
    alike = inside._zeroed(made.model, lambda cell: cell.query.parameters())
    weights = inside.attention(dataclasses.replace(made, model=alike), data, [0, 1, 2])
    seen = weights[np.isfinite(weights) & (weights > 0)].reshape(-1)
    shares = 1 / np.arange(1, SETTINGS["window_size"] + 1)
    assert np.abs(seen[:, None] - shares).min(1).max() < 1e-6
    # What was attended to makes no difference where nothing of it reaches the gates.
    deaf = inside._zeroed(made.model, lambda cell: cell.attention_gates.parameters()).layer
    x = torch.randn(STEPS, 3, 4)
    without = inside._zeroed(deaf, lambda cell: cell.value.parameters())
    assert torch.equal(deaf(x)[0], without(x)[0])
    assert not torch.allclose(deaf(x)[0], made.model.layer(x)[0])


def test_a_winner_is_trained_again_as_it_was(trained, monkeypatch):
    import model.training

    asked, fit = [], model.training.fit
    monkeypatch.delenv("LARNN_BACKEND", raising=False)
    monkeypatch.setattr(
        model.training, "fit", lambda *a, **options: asked.append(options) or fit(*a, **options)
    )
    needs = {"data_fingerprint": trained[2]["data_fingerprint"]}
    weights = inside.winner_weights(study_of(trained, requirements=needs), "s.jsonl")
    assert asked == [{"device": "cpu", "threads": 1, "backend": "torch"}]
    assert load_classifier(weights, "cpu").config.training.seed == 11
    elsewhere = study_of(trained, requirements={"data_fingerprint": "0" * 64})
    with pytest.raises(TrialRefusedError, match="this study's data have fingerprint 0000"):
        inside.winner_weights(elsewhere, "s.jsonl")
    with pytest.raises(InvalidValueError, match="study s minimises mine:objective"):
        inside.winner_weights(study_of(trained, objective="mine:objective"), "s.jsonl")
