"""A LARNN's training that is stopped and goes on elsewhere ends as if nothing had happened."""

import signal

import pytest

from search.launch import Request, build_spec
from tests.acceptance.worker_process import search_process
from tests.trials_tests.working import eventually
from trials.store import NewTrial
from trials.trial import TrialState

SMALL = (
    "num_heads=2", "head_size=4", "num_layers=1", "time_stride=8", "batch_size=512",
    "window_size=4", "dropout=0.2", "learning_rate=0.01",
)  # fmt: skip


def worker(mongo_uri, store, folder):
    uri = mongo_uri.replace("larnn_search", store.database.name)
    return search_process(uri, folder, "worker", "--slots", "1", "--device", "cpu")


@pytest.mark.mongo
@pytest.mark.timeout(600)
def test_the_loss_is_that_of_an_undisturbed_run_to_the_bit(mongo_uri, store, tmp_path):
    # However fast the machine is: the training is as long as it takes to be in its midst.
    epochs = 4
    while not is_stopped_midway(mongo_uri, store, tmp_path, epochs):
        epochs *= 3
    add(store, "undisturbed", epochs)
    with worker(mongo_uri, store, tmp_path):
        names = (f"stopped-{epochs}", "undisturbed")
        after, before = (finished(store, name) for name in names)
    assert (after.attempt, after.retries) == (2, 0)
    assert before.attempt == 1
    assert after.loss == before.loss
    curves = [[(r.step, r.loss, dict(r.metrics)) for r in t.reports] for t in (before, after)]
    assert curves[0] == curves[1]


def is_stopped_midway(mongo_uri, store, folder, epochs):
    """Stop a training after its first epoch; whether it was still under way."""
    name = f"stopped-{epochs}"
    add(store, name, epochs)
    with worker(mongo_uri, store, folder) as process:
        eventually(lambda: store.get_trial(name, 0).reports)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    return store.get_trial(name, 0).state is TrialState.WAITING


def add(store, name, epochs):
    request = Request(study=name, preset="quick", epochs=epochs, fix=SMALL)
    spec = build_spec(request, lambda line: None)
    store.create_study(spec)
    store.add_trials(name, None, 0, [NewTrial(spec.fixed, seed=7)])


def finished(store, name):
    trial = eventually(lambda: ended(store.get_trial(name, 0)), 240)
    assert trial.state is TrialState.COMPLETE, trial.failures
    return trial


def ended(trial):
    return trial if trial.state.is_finished else None
