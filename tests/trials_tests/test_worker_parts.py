"""The parts of a worker that need no process: devices, choice of study, quarantine."""

from collections import Counter
from pathlib import Path

import pytest

from tests.trials_tests.working import add_study
from trials.chooser import Chooser
from trials.devices import Cores, detect_slots, usable_cores, visible_gpus
from trials.errors import InvalidValueError
from trials.health import SlotHealth
from trials.memory_store import MemoryStore
from trials.settings import WorkerSettings
from trials.study import StudyState
from trials.trial import Failure, FailureKind, Outcome, TrialState


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    ("slots", "gpus", "cores", "expected"),
    [
        ("auto", ["0", "1"], 64, ("cuda:0", "cuda:1")),
        ("auto", [], 3, ("cpu", "cpu", "cpu")),
        (3, ["0", "GPU-5"], 64, ("cuda:0", "cuda:GPU-5", "cuda:0")),
        ("2", [], 1, ("cpu", "cpu")),
    ],
)
def test_slots_from_gpus_and_cores(slots, gpus, cores, expected):
    assert detect_slots(slots, gpus=gpus, cores=cores) == expected


@pytest.mark.parametrize("slots", ["many", 0, "-1", "1.5"])
def test_slots_that_are_none_are_refused(slots):
    with pytest.raises(InvalidValueError, match="'auto' or a whole number"):
        detect_slots(slots, gpus=[], cores=1)


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [("2, 3", ["2", "3"]), ("", []), ("-1", []), ("0,-1,1", ["0"]), ("GPU-ab", ["GPU-ab"])],
)
def test_gpus_the_environment_allows(allowed, expected):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": allowed}) == expected


@pytest.mark.parametrize(
    ("script", "expected"), [("echo 0; echo 1", ["0", "1"]), ("echo broken; exit 9", [])]
)
def test_gpus_as_nvidia_smi_lists_them(tmp_path, monkeypatch, script, expected):
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus({}) == expected
    command.unlink()
    assert visible_gpus({}) == []


def test_a_broken_driver_is_told(tmp_path, monkeypatch):
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("trials.devices.NVIDIA_SMI_TIMEOUT_SECONDS", 0.1)
    with pytest.raises(InvalidValueError, match=r"within 0\.1 s.*CUDA_VISIBLE_DEVICES"):
        visible_gpus({})


def test_cores_respect_a_containers_quota(tmp_path):
    quota = tmp_path / "cpu.max"
    whole = usable_cores(Path("/no/such/file"))
    for text, expected in [("max 100000\n", whole), ("100000 100000\n", 1), ("50000 100000\n", 1)]:
        quota.write_text(text)
        assert usable_cores(quota) == expected


def test_trials_share_the_cores():
    cores = Cores(4)
    assert cores.take(3)
    assert not cores.take(2)
    assert cores.take(1)
    cores.give_back(3)
    assert not cores.take(8)
    cores.give_back(1)
    assert cores.take(8)  # more than there are: alone
    assert not cores.take(1)
    assert all(Cores(None).take(1000) for _ in range(2))


@pytest.fixture
def store():
    return MemoryStore()


def chooser(store, clock=Clock(), **changes):  # noqa: B008  # a clock that stands still
    settings = {"objectives": ["m:f"], "studies": None} | changes
    return Chooser(store, settings["objectives"], settings["studies"], clock)


def test_studies_share_many_slots_by_priority(store):
    add_study(store, "m:f", [{}] * 100, name="a", priority=3)
    add_study(store, "m:f", [{}] * 100, name="b", priority=1)
    choice = chooser(store)
    for _ in range(40):  # forty slots, none of which ends a trial
        choice.took(choice.offers()[0].study)
    running = {offer.study: offer.running for offer in choice.offers()}
    assert abs(running["a"] - 30) <= 2


def test_one_slot_starves_no_study(store):
    add_study(store, "m:f", [{}], name="a", priority=3)
    add_study(store, "m:f", [{}], name="b", priority=1)
    choice = chooser(store)
    taken = Counter(choice.offers()[0].study for _ in range(4000))
    assert abs(taken["a"] / 4000 - 0.75) < 0.05  # 7 standard deviations


def test_nothing_else_is_offered_while_cores_are_held_for_a_study(store):
    clock = Clock()
    add_study(store, "m:f", [{}], name="narrow", priority=1000)
    add_study(store, "m:f", [{}], name="wide", threads=4)
    choice = chooser(store, clock)
    choice.hold("wide")
    assert [offer.study for offer in choice.offers()] == ["wide"]
    choice.took("wide")
    assert len(choice.offers()) == 2
    choice.hold("wide")
    store.set_study_state("wide", StudyState.PAUSED)
    clock.now += 0.6
    assert [offer.study for offer in choice.offers()] == ["narrow"]  # never for nothing


def test_offers_are_asked_for_again_when_old_or_empty(store):
    clock = Clock()
    choice = chooser(store, clock)
    assert choice.offers() == []
    add_study(store, "m:f", [{}], name="a")
    assert [o.study for o in choice.offers()] == ["a"]  # an empty answer is not kept
    add_study(store, "m:f", [{}], name="b")
    assert len(choice.offers()) == 1
    clock.now += 0.6
    assert len(choice.offers()) == 2


def test_slots_that_are_long_idle_share_an_empty_answer(store):
    clock = Clock()
    choice = chooser(store, clock)
    assert choice.offers() == []
    add_study(store, "m:f", [{}], name="a")
    assert choice.offers(patience_s=0.5) == []
    clock.now += 0.5
    assert len(choice.offers(patience_s=0.5)) == 1


def test_a_study_made_anew_is_no_longer_left_alone(store):
    study = add_study(store, "m:f", [{}])
    choice = chooser(store, studies=["s"])
    assert choice.accepts(study)
    choice.leave_alone(study, "other data")
    assert not choice.accepts(study)
    assert choice.is_useless
    assert choice.message == "leaves study 's' alone: other data"
    store.delete_study("s")
    assert choice.accepts(add_study(store, "m:f", [{}]))
    assert not choice.is_useless
    assert choice.message == ""


def test_an_objective_that_is_not_allowed_is_told_as_long_as_it_is_on_offer(store):
    choice = chooser(store)
    for objective, is_told in (("m:other", True), ("m:f", False), ("m:other", True), (None, False)):
        if objective is not None:
            add_study(store, objective, [{}])
        choice.forget()
        choice.offers()
        assert ("its objective 'm:other' is not on" in choice.message) == is_told
        if objective is not None:
            store.delete_study("s")


def crash(number):
    return Failure(FailureKind.CRASH, f"died of {number}", "w", "h", 1)


def complete_one(store, count=1):
    for i in range(count):
        trial = store.reserve("s", "other", "elsewhere", f"t{i}")
        store.finish(trial.claim, Outcome(TrialState.COMPLETE, loss=1.0))


def test_a_slot_that_fails_while_others_succeed_rests_longer_each_time(store):
    add_study(store, "m:f", [{}] * 10)
    clock = Clock()
    health = SlotHealth(store, WorkerSettings(objectives=[], quarantine_s=60), clock)
    complete_one(store)  # before the first failure: proves nothing
    for number in (5, 6, 6, 6):
        health.failed("s", number, crash(number))
    assert not health.rests  # one trial that crashes again and again is that trial's fault
    complete_one(store)
    health.failed("s", 7, crash(7))
    assert health.rests
    assert "trials s/5, s/6, s/7 failed here in a row" in health.message
    assert "died of 7" in health.message
    clock.now = 61
    assert not health.rests
    assert health.message == ""
    health.failed("s", 8, crash(8))
    clock.now = 61 + 119
    assert health.rests
    clock.now = 61 + 121
    assert not health.rests
    health.succeeded()
    health.failed("s", 9, crash(9))
    assert not health.rests


def test_a_slot_that_fails_while_others_are_at_it_rests(store):
    add_study(store, "m:f", [{}] * 10)
    health = SlotHealth(store, WorkerSettings(objectives=[]), Clock())
    assert store.reserve("s", "other", "elsewhere", "t")
    for number in range(1, 4):
        assert not health.rests
        health.failed("s", number, crash(number))
    assert health.rests


def test_failures_in_a_row_are_those_of_all_studies(store):
    for name in ("a", "b", "gone"):
        add_study(store, "m:f", [{}] * 10, name=name)
    health = SlotHealth(store, WorkerSettings(objectives=[]), Clock())
    health.failed("gone", 0, crash(0))
    store.delete_study("gone")
    health.failed("a", 0, crash(0))
    trial = store.reserve("a", "other", "elsewhere", "t")
    store.finish(trial.claim, Outcome(TrialState.COMPLETE, loss=1.0))
    health.failed("b", 0, crash(0))
    assert "trials gone/0, a/0, b/0 failed here in a row" in health.message


def test_a_slot_is_not_blamed_when_nothing_succeeds_anywhere(store):
    add_study(store, "m:f", [{}] * 10)
    health = SlotHealth(store, WorkerSettings(objectives=[]), Clock())
    for number in range(9):
        health.failed("s", number, crash(number))
    assert not health.rests


def test_nan_losses_are_not_the_slots_fault(store):
    add_study(store, "m:f", [{}] * 10)
    health = SlotHealth(store, WorkerSettings(objectives=[]), Clock())
    for number in range(5):
        complete_one(store)
        health.failed("s", number, Failure(FailureKind.NAN_LOSS, "nan", "w", "h", 1))
    assert not health.rests
