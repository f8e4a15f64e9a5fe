import dataclasses
import math

import numpy as np
import pytest
import torch

from model.checkpoint import CheckpointError, pack, unpack
from model.classifier import SequenceClassifier
from model.config import ModelConfig, TrainingConfig, TrialConfig
from model.cpu import threads_of
from model.data import DataError, har
from model.data.augmentation import jitter, rotate, scale
from model.epochs import DivergedError
from model.evaluation import evaluate, load_classifier
from model.fused.build import is_available
from model.optimization import Precision, learning_rate
from model.training import INTERRUPT, fit
from tests.model_tests.tiny_data import tiny

SMALL = {"num_heads": 2, "head_size": 2, "window_size": 3, "num_layers": 2}
CELLS = {
    "larnn": {
        **SMALL,
        "norm": "batch",
        "attention_norm": "layer",
        "attention_rate_factor": 0.5,
    },
    "lstm": {"cell": "lstm", "hidden_size": 4},
    "bn-lstm": {"cell": "bn-lstm", "hidden_size": 4},
    "residual-bi-lstm": {"cell": "residual-bi-lstm", "hidden_size": 4, "num_layers": 1},
}
DATA = tiny()


@pytest.fixture(autouse=True)
def _one_thread():
    with threads_of(1):
        yield


def configure(cell="lstm", **settings):
    return TrialConfig.from_params({"epochs": 2, "batch_size": 8, **CELLS[cell], **settings})


def train(config, data=DATA, **options):
    """Train on the CPU; the clock stands still, so that equal trainings give equal results."""
    return fit(config, data, device="cpu", **{"clock": lambda: 0.0, **options})


class Stop:
    """Asks for a stop at one question."""

    def __init__(self, at, reason=INTERRUPT):
        self.left, self.reason = at, reason

    def __call__(self):
        self.left -= 1
        return self.reason if self.left == 0 else None


# -- it learns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_learns(cell):
    wider = {"head_size": 4, "norm": "layer"} if cell == "larnn" else {"hidden_size": 8}
    config = configure(cell, epochs=15, learning_rate=0.02, batch_size=16, **wider)
    result = train(config, tiny(sequences=240))
    assert result.best.validation_accuracy > 0.6  # chance: 0.33
    assert result.history[-1].train_loss < 0.8 * result.history[0].train_loss
    assert result.stopped is None
    assert len(result.history) == 15


def test_one_epoch_on_people_beats_chance():
    people = har.load_har()
    few = np.concatenate([people.indices(part)[::6] for part in ("train", "validation")])
    fewer = dataclasses.replace(
        people, x=people.x[few], y=people.y[few], person=people.person[few]
    ).every(4)
    config = TrialConfig.from_params(
        {
            **SMALL,
            "head_size": 8,
            "epochs": 1,
            "batch_size": 16,
            "learning_rate": 0.01,
            "time_stride": 4,
        }
    )
    assert train(config, fewer).best.validation_accuracy > 0.4  # chance: 0.19


def test_the_best_epoch_is_kept_and_measured_again_alike():
    config = configure(epochs=6, learning_rate=0.05)
    result = train(config)
    losses = [epoch.validation_loss for epoch in result.history]
    assert result.best == result.history[losses.index(min(losses))]
    again = evaluate(result.weights, DATA, "validation", device="cpu")
    assert again["loss"] == pytest.approx(result.best.validation_loss, abs=1e-12)
    assert again["accuracy"] == result.best.validation_accuracy
    assert np.sum(again["confusion"]) == again["sequences"] == len(DATA.indices("validation"))
    assert np.trace(again["confusion"]) / again["sequences"] == again["accuracy"]


def test_with_nobody_to_validate_the_last_epoch_is_kept_and_the_training_is_the_same():
    config = configure(epochs=6, learning_rate=0.05)
    alone = DATA.resplit({**DATA.split, "validation": ()})
    assert alone.fingerprint != DATA.fingerprint
    result, other = train(config, alone), train(config)
    assert result.best == result.history[-1]
    assert (result.best.validation_loss, result.best.validation_accuracy) == (None, None)
    assert [e.train_loss for e in result.history] == [e.train_loss for e in other.history]


def test_the_last_epoch_counts_where_it_shall_and_the_training_is_the_same():
    config = configure(epochs=6, learning_rate=0.05)
    last = configure(epochs=6, learning_rate=0.05, keep="last")
    result, other = train(last), train(config)
    assert other.best != other.history[-1]  # or the test would show nothing
    assert result.best == result.history[-1]
    assert [e.loss for e in result.history] == [e.loss for e in other.history]
    again = evaluate(result.weights, DATA, "validation", device="cpu")
    assert again["loss"] == pytest.approx(result.best.validation_loss, abs=1e-12)
    saved = []
    train(last, save_checkpoint=saved.append)
    for checkpoint in saved:
        assert train(last, checkpoint=checkpoint) == result


def test_patience_needs_a_best_epoch():
    with pytest.raises(ValueError, match="set patience 0 or keep 'best', got patience 3"):
        configure(patience=3, keep="last")


def test_a_part_is_measured_person_by_person():
    result = train(configure(epochs=1))
    measured = evaluate(result.weights, DATA, "train", device="cpu")
    people = measured["people"]
    assert set(people) == {"1", "2", "3"}
    assert sum(n for _, n in people.values()) == measured["sequences"]
    correct = sum(correct for correct, _ in people.values())
    assert correct / measured["sequences"] == measured["accuracy"]


def test_early_stopping_ends_after_patience_epochs_without_improvement():
    result = train(configure(epochs=60, patience=3, learning_rate=0.1, schedule="constant"))
    assert len(result.history) == result.best.epoch + 3


# -- it sees only what it may ----------------------------------------------------------------------


def altered(part, value):
    x = DATA.x.copy()
    x[DATA.indices(part)] = value
    return dataclasses.replace(DATA, x=x)


def test_test_people_are_never_read():
    config = configure("larnn")
    expected = train(config)
    assert train(config, altered("test", np.nan)) == expected


def test_validation_people_choose_and_nothing_else():
    config = configure("larnn")
    plain, other = (train(config, data) for data in (DATA, altered("validation", 1000.0)))
    assert [e.train_loss for e in plain.history] == [e.train_loss for e in other.history]
    mean, found = (load_classifier(r.weights, "cpu").normalisation.mean for r in (plain, other))
    np.testing.assert_array_equal(mean, found)
    assert plain.best.validation_loss != other.best.validation_loss


def test_padding_changes_nothing():
    data = tiny(lengths=True)
    garbage = data.x.copy()
    garbage[np.arange(12) >= data.length[:, None]] = np.nan
    for cell in CELLS:
        config = configure(cell)
        expected = train(config, data)
        assert train(config, dataclasses.replace(data, x=garbage)) == expected
        assert math.isfinite(expected.best.validation_loss)


# -- it repeats ------------------------------------------------------------------------------------


def test_only_the_seed_decides():
    config = configure(dropout=0.3, augmentation="all")
    expected = train(config)
    torch.manual_seed(123)
    torch.randn(1000)
    state = torch.get_rng_state()
    assert train(config) == expected
    assert torch.equal(torch.get_rng_state(), state)  # the caller's draws go on as they would
    assert train(configure(dropout=0.3, augmentation="all", seed=1)).weights != expected.weights


def test_the_callers_gpus_are_not_seeded(monkeypatch):
    def refuse(seed):
        raise AssertionError(f"seeded with {seed}")

    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    assert train(configure()).best


STEPS = 4  # training: 36 sequences, batches of 8; one batch of validation
QUESTIONS = STEPS + 1  # asked after each training batch and before each batch of validation


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "at",
    [
        pytest.param([2 * QUESTIONS + 2], id="in the middle of epoch 3"),
        pytest.param([1, 1, QUESTIONS], id="three times"),
        pytest.param([3 * QUESTIONS], id="before validation"),
    ],
)
def test_resumed_equals_never_stopped(cell, at):
    config = configure(cell, epochs=4, dropout=0.2, augmentation="all", patience=4)
    expected = train(config)
    checkpoint = None
    for questions in at:
        saved = []
        result = train(
            config,
            stop_reason=Stop(questions),
            checkpoint=checkpoint,
            save_checkpoint=saved.append,
        )
        assert result.stopped == INTERRUPT
        checkpoint = saved[-1]
    assert train(config, checkpoint=checkpoint) == expected


@pytest.mark.parametrize("backend", ["torch", "fused"])
def test_a_training_goes_on_with_the_backend_it_began_with(backend, monkeypatch):
    if backend == "fused" and not is_available():
        pytest.skip("no kernel can be built here")
    config, saved = configure("larnn"), []
    expected = train(config, backend=backend)
    train(config, backend=backend, stop_reason=Stop(3), save_checkpoint=saved.append)
    monkeypatch.setenv("LARNN_BACKEND", {"torch": "fused", "fused": "torch"}[backend])
    assert train(config, checkpoint=saved[-1]) == expected
    assert expected.backend == backend


def test_each_epochs_end_is_a_checkpoint():
    config = configure(epochs=4)
    saved, epochs = [], []
    expected = train(config, save_checkpoint=saved.append, on_epoch=epochs.append)
    assert tuple(epochs) == expected.history
    assert len(saved) == 3
    for done, checkpoint in enumerate(saved, 1):
        epochs.clear()
        assert train(config, checkpoint=checkpoint, on_epoch=epochs.append) == expected
        assert [epoch.epoch for epoch in epochs] == list(range(done + 1, 5))


def test_other_stops_save_nothing():
    saved = []
    result = train(configure(), stop_reason=Stop(2, "prune"), save_checkpoint=saved.append)
    assert (result.stopped, result.best, result.weights, saved) == ("prune", None, None, [])


def test_seconds_go_on_where_the_last_attempt_ended():
    ticks = iter(range(1000))
    saved = []
    options = {"clock": lambda: float(next(ticks)), "save_checkpoint": saved.append}
    train(configure(), stop_reason=Stop(QUESTIONS + 1), **options)
    before = train(configure(), **options).seconds
    resumed = train(configure(), checkpoint=saved[0], **options)
    assert resumed.history[0].seconds < resumed.history[1].seconds < resumed.seconds
    assert resumed.seconds > before / 2


def test_a_checkpoint_of_another_training_is_refused():
    saved = []
    train(configure(), save_checkpoint=saved.append)
    for config, data in ((configure(learning_rate=0.1), DATA), (configure(), tiny(seed=1))):
        with pytest.raises(CheckpointError, match="must come from the same settings and data"):
            train(config, data, checkpoint=saved[0])
    with pytest.raises(CheckpointError, match="expected a checkpoint"):
        train(configure(), checkpoint=saved[0][:-3])


def test_a_checkpoint_of_before_a_setting_was_there_goes_on():
    saved = []
    expected = train(configure(), save_checkpoint=saved.append)
    tensors, values = unpack(saved[0])
    assert values["belongs_to"]["config"].pop("dropout_on") == "hidden"  # its default
    assert train(configure(), checkpoint=pack(tensors, values)).weights == expected.weights


def test_weights_of_another_network_are_told():
    saved = []
    weights = train(configure(), save_checkpoint=saved.append).weights
    for blob, read in (
        (weights, load_classifier),
        (saved[0], lambda b: train(configure(), checkpoint=b)),
    ):
        tensors, values = unpack(blob)
        tensors.pop(next(name for name in tensors if name.startswith("model.")))
        with pytest.raises(CheckpointError, match="as of another version of larnn-search"):
            read(pack(tensors, values))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cell": "residual-bi-lstm", "hidden_size": 105}, "must be even, half for each direction"),
        ({"num_heads": 1, "head_size": 1}, "layer norm needs a hidden_size of at least 2"),
        ({"norm": "batch", "batch_size": 1}, "batch norm needs a batch_size of at least 2, got 1"),
        ({"cell": "bn-lstm", "batch_size": 1}, "batch norm needs a batch_size of at least 2"),
    ],
)
def test_what_no_layer_could_be_made_of_is_no_configuration(settings, message):
    with pytest.raises(ValueError, match=message):
        TrialConfig.from_params(settings)


def test_numbers_too_small_to_be_normal_are_zero_for_the_training_only():
    def smallest(_=None):
        seen.append(float(torch.tensor(1e-40) * 1.0))

    seen = []
    train(configure(epochs=1), on_epoch=smallest)
    smallest()
    assert seen == [0.0, pytest.approx(1e-40, rel=1e-4)]


def test_threads_are_set_for_the_training_only():
    seen = []
    result = train(configure(), threads=2, on_epoch=lambda _: seen.append(torch.get_num_threads()))
    assert (seen, result.threads, torch.get_num_threads()) == ([2, 2], 2, 1)


# -- every setting does something ------------------------------------------------------------------

CHANGES = {
    "epochs": 3,
    "batch_size": 9,
    "optimizer": "adam",
    "learning_rate": 0.01,
    "weight_decay": 0.5,
    "schedule": "cosine",
    "label_smoothing": 0.1,
    "gradient_clip": 0.01,
    "class_weights": "balanced",
    "augmentation": "jitter",
    "seed": 5,
}
ELSEWHERE = {  # have their own tests
    "attention_rate_factor",
    "keep",
    "patience",
    "precision",
    "decay_every",
    "decay_factor",
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_changes_the_weights(name):
    uneven = dataclasses.replace(DATA, y=np.minimum(np.arange(60) % 5, 2))
    plain, changed = (train(configure(**change), uneven) for change in ({}, {name: CHANGES[name]}))
    states = [load_classifier(r.weights, "cpu").model.state_dict() for r in (plain, changed)]
    assert any(not torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("optimizer", ["adamw", "adam"])
@pytest.mark.parametrize("mode", ["residual", "layer"])
def test_the_factor_acts_on_attentions_learning_rate_and_no_other(mode, optimizer):
    config = configure("larnn", mode=mode, optimizer=optimizer, attention_rate_factor=1e-12)
    torch.manual_seed(config.training.seed)
    classes = len(DATA.class_names)
    fresh = dict(SequenceClassifier(config.model, DATA.x.shape[2], classes).named_parameters())
    trained = load_classifier(train(config).weights, "cpu").model.state_dict()
    names = {part for name in fresh for part in name.split(".")}
    attention = {"query", "key", "value", "attended", "attention_gates"}
    assert attention < names
    for name, start in fresh.items():
        if attention & set(name.split(".")):
            torch.testing.assert_close(trained[name], start.data)
        else:
            assert not torch.allclose(trained[name], start), name


def test_every_setting_is_tested():
    assert set(CHANGES) | ELSEWHERE == set(TrainingConfig.field_names())


def test_dropout_acts_in_training_only():
    plain, dropped = (train(configure("larnn", dropout=share)) for share in (0.0, 0.5))
    assert plain.history[0].train_loss != dropped.history[0].train_loss
    twice = [evaluate(dropped.weights, DATA, "validation", device="cpu") for _ in range(2)]
    assert twice[0] == twice[1]


def rates(epochs=10, per_epoch=7, **settings):
    config = TrainingConfig(epochs=epochs, learning_rate=0.1, **settings)
    return [learning_rate(config, step, per_epoch) for step in range(epochs * per_epoch)]


def torch_rates(make, steps=70):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_schedules_follow_their_formulas():
    schedulers = torch.optim.lr_scheduler
    assert rates(schedule="constant") == [0.1] * 70
    assert rates(schedule="cosine") == pytest.approx(
        torch_rates(lambda o: schedulers.CosineAnnealingLR(o, 70))
    )
    assert rates(schedule="step", decay_every=3, decay_factor=0.5) == pytest.approx(
        torch_rates(lambda o: schedulers.StepLR(o, 21, 0.5))
    )
    one_cycle = rates(schedule="one_cycle")
    assert one_cycle[0] == pytest.approx(0.1 / 25)
    assert max(one_cycle) == one_cycle[21] == pytest.approx(0.1)
    assert one_cycle[21:] == sorted(one_cycle[21:], reverse=True)
    assert one_cycle[-1] < 1e-3
    assert all(rate > 0 for rate in rates(1, 1, schedule="one_cycle"))


def test_augmentations_change_what_they_say():
    torch.manual_seed(0)
    x = torch.randn(50, 20, 6)
    turned = rotate(x, ((0, 1, 2), (3, 4, 5)))
    for axes in (slice(0, 3), slice(3, 6)):
        torch.testing.assert_close(turned[..., axes].norm(dim=2), x[..., axes].norm(dim=2))
    cosine = torch.cosine_similarity(turned[..., :3], x[..., :3], dim=2)
    assert 0.8 < cosine.mean() < 0.999
    factor = scale(x) / x
    torch.testing.assert_close(factor, factor[:, :1, :1].expand_as(factor))
    assert 0.05 < factor[:, 0, 0].std() < 0.15
    std = torch.tensor([1.0, 2, 3, 4, 5, 0])
    noise = (jitter(x, std) - x).flatten(0, 1).std(dim=0)
    torch.testing.assert_close(noise, 0.05 * std, rtol=0.1, atol=1e-6)


# -- what cannot be --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "data", "message"),
    [
        ({"augmentation": "rotate"}, tiny(channels=("a", "b")), "needs 3-axis sensors"),
        ({"precision": "mixed"}, DATA, "precision 'mixed' needs CUDA, got device 'cpu'"),
        ({"time_stride": 2}, DATA, "must be loaded with time_stride 2, got 1"),
        ({}, altered("train", np.inf), "values must be finite"),
        (
            {"class_weights": "balanced"},
            dataclasses.replace(DATA, y=DATA.y % 2),
            "needs training sequences of every class, 'class 2' has none",
        ),
    ],
)
def test_what_cannot_be_trained_is_said(settings, data, message):
    with pytest.raises(ValueError, match=message):
        train(configure(**settings), data)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has the GPU that must be missing")
def test_a_missing_gpu_is_said():
    with pytest.raises(ValueError, match="device 'cuda' needs a CUDA GPU"):
        fit(configure(), DATA, device="cuda")
    with pytest.raises(ValueError, match="device must be one of auto, cpu, cuda, got 'tpu'"):
        fit(configure(), DATA, device="tpu")


def test_a_loss_that_is_no_number_ends_the_training():
    with pytest.raises(
        DivergedError, match=r"the training loss became (nan|inf) in epoch 1, batch"
    ):
        train(configure(learning_rate=1e30, schedule="constant"))


def test_weights_are_used_on_their_own_data_only():
    weights = train(configure(epochs=1)).weights
    with pytest.raises(DataError, match="trained on data 'tiny' with fingerprint"):
        evaluate(weights, tiny(seed=1), device="cpu")
    with pytest.raises(DataError, match="need time_stride 1, got 2"):
        evaluate(weights, DATA.every(2), device="cpu")
    saved = []
    train(configure(), save_checkpoint=saved.append)
    with pytest.raises(CheckpointError, match="weights must have format"):
        evaluate(saved[0], DATA, device="cpu")


def test_weights_tell_what_they_are():
    config = configure("larnn", epochs=1)
    trained = load_classifier(train(config).weights, "cpu")
    assert trained.config == config
    assert trained.class_names == DATA.class_names
    assert trained.channel_names == DATA.channel_names
    assert trained.about["data_fingerprint"] == DATA.fingerprint
    assert isinstance(trained.config.model, ModelConfig)


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize("native", [True, False])
def test_mixed_precision_takes_bfloat16_where_the_gpu_computes_it_itself(native, monkeypatch):
    def supports(including_emulation=True):
        return native or including_emulation

    monkeypatch.setattr("torch.cuda.is_bf16_supported", supports)
    precision = Precision("mixed", torch.device("cuda"))
    assert precision.dtype is (torch.bfloat16 if native else torch.float16)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_a_gpu_trains_and_resumes(precision):
    config = configure("larnn", epochs=4, precision=precision)
    saved = []
    result = fit(config, DATA, device="cuda", save_checkpoint=saved.append)
    resumed = fit(config, DATA, device="cuda", checkpoint=saved[1])
    assert result.device == "cuda"
    assert resumed.best.validation_loss == pytest.approx(result.best.validation_loss, rel=1e-3)
