"""The scikit-learn estimator does what scikit-learn's tools expect."""

import inspect
import json
import pickle

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, GroupShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from model.config import ModelConfig, TrainingConfig
from model.cpu import threads_of
from model.data import DataError
from model.estimator import LARNNClassifier
from model.saved import SavedModelError
from tests.model_tests.tiny_data import tiny

SMALL = {"num_layers": 1, "num_heads": 2, "head_size": 4, "window_size": 4, "epochs": 12,
         "batch_size": 16, "learning_rate": 0.02, "device": "cpu", "threads": 1}  # fmt: skip
DATA = tiny(sequences=150, classes=2)
LABELS = np.array(["down", "up"])[DATA.y]


@pytest.fixture(autouse=True)
def _one_thread():
    with threads_of(1):
        yield


@pytest.fixture(scope="module")
def fitted():
    return LARNNClassifier(**SMALL).fit(DATA.x, LABELS)


def test_it_learns_and_answers_with_the_labels_it_was_given(fitted):
    assert fitted.classes_.tolist() == ["down", "up"]
    assert fitted.n_features_in_ == 6
    assert len(fitted.history_) == 12
    assert fitted.score(DATA.x, LABELS) > 0.8
    shares = fitted.predict_proba(DATA.x)
    np.testing.assert_allclose(shares.sum(1), 1)
    assert (fitted.predict(DATA.x) == fitted.classes_[shares.argmax(1)]).all()
    assert set(fitted.predict(DATA.x)) == {"down", "up"}


def test_every_setting_of_the_configurations_is_a_parameter_with_its_default():
    expected = {
        field: getattr(part, field)
        for part in (ModelConfig, TrainingConfig)
        for field in part.field_names()
    }
    expected["random_state"] = expected.pop("seed")
    expected |= {"validation_fraction": 0.2, "device": "auto", "threads": None, "backend": None}
    assert LARNNClassifier().get_params() == expected


def test_a_clone_fits_alike_and_a_seed_of_its_own_does_not(fitted):
    assert is_classifier(fitted)
    again = clone(fitted)
    with pytest.raises(NotFittedError):
        again.predict(DATA.x)
    expected = fitted.predict_proba(DATA.x)
    assert (again.fit(DATA.x, LABELS).predict_proba(DATA.x) == expected).all()
    other = clone(fitted).set_params(random_state=np.random.RandomState(3), epochs=1)
    assert (other.fit(DATA.x, LABELS).predict_proba(DATA.x) != expected).any()


def test_a_pickle_and_a_saved_folder_predict_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = LARNNClassifier.load(tmp_path / "model")
    assert loaded.get_params() == fitted.get_params()
    for other in (pickle.loads(pickle.dumps(fitted)), loaded):  # noqa: S301  # our own
        assert (other.predict(DATA.x) == fitted.predict(DATA.x)).all()
        assert (other.predict_proba(DATA.x) == fitted.predict_proba(DATA.x)).all()
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["learning_rate"] == 0.02
    with pytest.raises(SavedModelError, match="holds a model already"):
        fitted.save(tmp_path / "model")
    with pytest.raises(SavedModelError, match="is none"):
        LARNNClassifier.load(tmp_path / "other")


def test_the_backend_computes_training_and_answers(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("the kernel ran")

    monkeypatch.setenv("LARNN_BACKEND", "auto")
    monkeypatch.setattr("model.fused.sequence.FusedSequence.apply", refuse)
    made = LARNNClassifier(**{**SMALL, "epochs": 1}, backend="torch").fit(DATA.x, LABELS)
    made.save(tmp_path)
    for model in (clone(made).fit(DATA.x, LABELS), LARNNClassifier.load(tmp_path)):
        assert model.backend == "torch"
        assert len(model.predict(DATA.x)) == 150
    with pytest.raises(ValueError, match="backend must be one of auto, fused, torch, got 'quick'"):
        clone(made).set_params(backend="quick").fit(DATA.x, LABELS)


def test_labels_keep_their_type(tmp_path):
    made = LARNNClassifier(**{**SMALL, "epochs": 1}).fit(DATA.x, DATA.y * 10 - 5)
    made.save(tmp_path)
    for model in (made, LARNNClassifier.load(tmp_path)):
        assert model.classes_.dtype == np.int64
        assert set(model.predict(DATA.x)) <= {-5, 5}


def test_cross_validation_grid_search_and_pipelines():
    short = LARNNClassifier(**{**SMALL, "epochs": 5})
    scores = cross_val_score(short, DATA.x, LABELS, cv=2)
    assert scores.min() > 0.5
    by_person = cross_val_score(
        short, DATA.x, LABELS, cv=GroupKFold(2), groups=DATA.person,
        params={"groups": DATA.person},
    )  # fmt: skip
    assert np.isfinite(by_person).all()
    scaled = make_pipeline(FunctionTransformer(lambda x: x * 1000.0), short)
    assert scaled.fit(DATA.x, LABELS).score(DATA.x, LABELS) > 0.5
    grid = {"num_heads": np.array([1, 2]), "learning_rate": np.array([0.02])}
    search = GridSearchCV(clone(short).set_params(epochs=1), grid, cv=2).fit(DATA.x, LABELS)
    assert search.best_params_["num_heads"] in (1, 2)


def test_groups_stay_on_one_side(monkeypatch):
    seen = []
    import model.estimator

    fit = model.estimator.fit
    monkeypatch.setattr(
        model.estimator, "fit", lambda c, data, **k: seen.append(data) or fit(c, data, **k)
    )
    LARNNClassifier(**{**SMALL, "epochs": 1}).fit(DATA.x, LABELS, groups=DATA.person)
    train, held = (set(DATA.person[list(seen[0].split[p])]) for p in ("train", "validation"))
    assert len(train) == 4
    assert len(held) == 1
    assert not train & held


def test_a_class_that_groups_keep_back_is_named():
    people = DATA.person.copy()
    people[LABELS == "up"] = 6  # all of one class, and the first draw keeps that person back
    seeds = [seed for seed in range(20) if 6 in held_back(people, seed)]
    with pytest.raises(DataError, match=r"'up' has none: all its groups .* validation_fraction"):
        LARNNClassifier(**SMALL, random_state=seeds[0]).fit(DATA.x, LABELS, groups=people)


def held_back(groups, seed):
    splitter = GroupShuffleSplit(1, test_size=0.2, random_state=seed)
    return groups[next(splitter.split(groups, groups=groups))[1]]


class FewerSettings(LARNNClassifier):
    def __init__(self, *, epochs=1, extra=2):
        super().__init__(**{**SMALL, "epochs": epochs})
        self.extra = extra


def test_a_subclass_may_have_settings_of_its_own():
    made = clone(FewerSettings(extra=3)).fit(DATA.x, LABELS)
    assert made.get_params() == {"epochs": 1, "extra": 3}
    assert len(made.history_) == 1


def test_nan_ends_a_sequence():
    x = DATA.x.copy()
    x[::2, 9:] = np.nan
    made = LARNNClassifier(**{**SMALL, "epochs": 2}).fit(x, LABELS)
    shares = made.predict_proba(x)
    assert np.isfinite(shares).all()
    np.testing.assert_allclose(made.predict_proba(x[::2, :9]), shares[::2], atol=1e-6)


WRONG = {
    "two axes": ({"X": DATA.x[0]}, r"X must be \[n, T, F\]"),
    "a hole": ({"X": np.where(np.arange(12)[:, None] == 3, np.nan, DATA.x)}, "X? ?must be finite"),
    "nothing": ({"X": np.full((150, 12, 6), np.nan)}, "0 is NaN throughout"),
    "labels": ({"y": LABELS[1:]}, "y must have one label for each of 150 sequences"),
    "missing labels": ({"y": np.where(np.arange(150) == 3, np.nan, 1.0)}, "some are missing"),
    "no labels": ({"y": np.where(np.arange(150) == 3, None, LABELS)}, "some are missing"),
    "one class": ({"y": np.zeros(150)}, "y must hold at least 2 classes, found 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_data_that_do_not_fit_are_refused(case):
    change, message = WRONG[case]
    with pytest.raises(DataError, match=message):
        LARNNClassifier(**SMALL).fit(**{"X": DATA.x, "y": LABELS, **change})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"window_size": 0}, "window_size must be at least 1, got 0"),
        ({"validation_fraction": 0.001}, "validation_fraction 0.001 splits 150 sequences"),
        ({"validation_fraction": 1.0}, "validation_fraction must lie between 0 and 1, got 1.0"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda"),
    ],
)
def test_settings_are_checked_when_fitting(setting, message):
    with pytest.raises(ValueError, match=message):
        LARNNClassifier(**{**SMALL, **setting}).fit(DATA.x, LABELS)


def test_another_number_of_channels_is_refused(fitted):
    with pytest.raises(DataError, match="must have the model's 6 channels"):
        fitted.predict(DATA.x[..., :4])


def test_all_parameters_are_named():
    assert all(
        parameter.kind is inspect.Parameter.KEYWORD_ONLY
        for parameter in inspect.signature(LARNNClassifier).parameters.values()
    )
