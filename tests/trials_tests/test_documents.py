"""Documents made by hand, broken or hostile: refused one by one, in nobody else's way."""

import dataclasses
import math
from datetime import UTC, datetime
from typing import Any

import bson
import pytest
from bson import DBRef, Int64, Regex
from bson.raw_bson import RawBSONDocument

from trials.documents import SCHEMA_VERSION, encode_trial, encode_worker
from trials.errors import (
    BrokenDocumentError,
    InvalidValueError,
    LeaseLostError,
    SchemaVersionError,
    StudyNotFoundError,
)
from trials.mongo_store import MongoStore
from trials.oversize import LIMIT_BYTES
from trials.reading import decode_trial
from trials.store import CHECKPOINT, WEIGHTS, NewTrial, WorkerInfo
from trials.study import StudySpec, StudyState
from trials.trial import Outcome, Report, TrialState
from trials.values import plain

pytestmark = pytest.mark.mongo

SPEC = StudySpec("s", "module:function", space={"name": "none", "rows": []})
WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GOOD = encode_trial("s", 0, NewTrial({"x": 1}, seed=1), WHEN)


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = {"a": value}
    return value


HOSTILE: dict[str, dict[str, Any]] = {
    "operator in a name": {"params": {"$where": "sleep(1000)"}},
    "operator deep inside": {"params": {"x": {"$function": {"body": "f"}}}},
    "dot in a name": {"params": {"a.b": 1}},
    "params are a list": {"params": [1, 2]},
    "params are none": {"params": None},
    "a pickle": {"params": {"x": b"\x80\x04\x95cos\nsystem\n"}},
    "code": {"params": {"x": bson.Code("while(1){}")}},
    "a pattern": {"params": {"x": Regex("(a+)+$")}},
    "a reference": {"params": {"x": DBRef("studies", "s")}},
    "deep": {"params": deep(90)},
    "unknown field": {"run_me": "rm -rf /"},
    "seed is text": {"seed": "1"},
    "seed is true": {"seed": True},
    "attempt is huge": {"attempt": Int64(2**63 - 1)},
    "created_at is text": {"created_at": "yesterday"},
    "failures are text": {"failures": "many"},
    "a failure is text": {"failures": ["one"]},
    "failure of unknown kind": {"failures": [{"kind": "odd"}]},
    "reports are a list": {"reports": [1]},
    "a step is text": {"reports": {"one": {"loss": 1.0, "metrics": {}, "seconds": 0}}},
    "a loss is text": {"reports": {"1": {"loss": "low", "metrics": {}, "seconds": 0}}},
    "number is text": {"number": "first"},
    "number is another's": {"number": 10**9},
    "number is negative": {"number": -1},
    "number is none": {"number": None},
    "of another version": {"schema": SCHEMA_VERSION + 1},
    "version is text": {"schema": "1"},
    "blobs are text": {"blobs": "here"},
}


@pytest.fixture
def study(mongo_store: MongoStore) -> MongoStore:
    mongo_store.create_study(SPEC)
    return mongo_store


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_trial_is_refused_and_the_next_one_runs(
    study: MongoStore, change: dict[str, Any]
) -> None:
    study.add_trials("s", None, 0, [NewTrial({"x": 0}, 1), NewTrial({"x": 1}, 1)])
    study._trials.replace_one({"_id": "s/0"}, {**GOOD, **change})
    assert study.list_trials("s")
    study.offers(), study.counts("s"), study.best_trial("s"), study.release_expired()
    taken = study.reserve("s", "w", "h", "t", 1000)
    assert taken is not None
    assert taken.number == 1
    assert study.reserve("s", "w", "h", "t2", 1000) is None
    (refused,) = study.list_trials("s", [TrialState.FAILED])
    assert "refused: trial s/0" in refused.failures[0].message
    assert len(refused.failures[0].message) < 600
    assert study.get_trial("s", 0).state is TrialState.FAILED


def test_the_best_trial_is_the_best_of_those_that_can_be_read(study: MongoStore) -> None:
    study.add_trials("s", None, 0, [NewTrial({"x": x}, 1) for x in range(3)])
    for token in "abc":
        trial = study.reserve("s", "w", "h", token, 1000)
        assert trial is not None
        study.finish(trial.claim, Outcome(TrialState.COMPLETE, 0.1 + trial.number))
    study._trials.update_one({"_id": "s/0"}, {"$set": {"reports": 5}})
    best = study.best_trial("s")
    assert best is not None
    assert (best.number, best.state) == (1, TrialState.COMPLETE)
    study._trials.update_many({}, {"$set": {"reports": 5}})
    assert study.best_trial("s") is None


def test_a_new_study_starts_without_what_one_of_its_name_left(study: MongoStore) -> None:
    # A feeder that was at it while the study was deleted
    study._trials.insert_one({**GOOD, "created_at": datetime(2020, 1, 1, tzinfo=UTC)})
    study._studies.delete_one({"_id": "s"})
    study.create_study(SPEC)
    assert study.list_trials("s") == []


def brim(document: dict[str, Any], reports: bool, spare: int) -> dict[str, Any]:
    """A document with so many bytes of room, filled in its reports or in its params."""
    report = {"loss": 1.0, "metrics": {"text": ""}, "seconds": 0, "attempt": 1}

    def filled(size: int) -> dict[str, Any]:
        text = "x" * size
        if reports:
            return {**document, "reports": {"1": {**report, "metrics": {"text": text}}}}
        return {**document, "params": {"x": 1, "text": text}}

    return filled(LIMIT_BYTES - spare - len(bson.encode(filled(0))))


@pytest.mark.parametrize(("reports", "spare"), [(True, 0), (True, 40), (False, 0), (False, 150)])
def test_a_waiting_trial_without_room_is_refused_and_the_next_one_runs(
    study: MongoStore, reports: bool, spare: int
) -> None:
    study.add_trials("s", None, 0, [NewTrial({"x": 1}, 1), NewTrial({"x": 1}, 1)])
    study._trials.replace_one({"_id": "s/0"}, brim(GOOD, reports, spare))
    taken = study.reserve("s", "worker", "host", "token", 1000)
    assert taken is not None
    assert taken.number == 1
    refused = study.get_trial("s", 0)
    assert (refused.state, refused.reports) == (TrialState.FAILED, ())
    assert refused.params == ({"x": 1} if reports else {})
    assert "refused: trial s/0 has grown to the 16 MB" in refused.failures[-1].message
    assert refused.finished_at is not None


def test_a_running_trial_without_room_keeps_no_others_lease(study: MongoStore) -> None:
    study.add_trials("s", None, 0, [NewTrial({"x": 1}, 1)] * 2)
    claims = [study.reserve("s", "w", "h", token, 0) for token in "ab"]
    assert None not in claims
    held = study._trials.find_one({"_id": "s/0"})
    assert held is not None
    study._trials.replace_one({"_id": "s/0"}, brim(held, reports=True, spare=1))
    assert [trial.number for trial in study.release_expired()] == [1]
    assert study.get_trial("s", 0).state is TrialState.FAILED
    assert study.retry_trial("s", 0).params == {"x": 1}


def test_a_trial_without_room_keeps_no_study_from_being_cancelled(study: MongoStore) -> None:
    study.add_trials("s", None, 0, [NewTrial({"x": 1}, 1)] * 2)
    study._trials.replace_one({"_id": "s/0"}, brim(GOOD, reports=True, spare=1))
    study.set_study_state("s", StudyState.CANCELLED)
    states = [trial.state for trial in study.list_trials("s")]
    assert states == [TrialState.FAILED, TrialState.CANCELLED]


def test_what_lacks_a_field_is_refused(study: MongoStore) -> None:
    for name in sorted(GOOD.keys() - {"_id", "reports", "blobs", "cancel", "ended"}):
        lacking = {field: value for field, value in GOOD.items() if field != name}
        with pytest.raises(BrokenDocumentError, match=f"s/0 lacks '{name}'"):
            decode_trial(lacking)
    decode_trial(GOOD)


def test_another_version_is_refused_with_what_to_do() -> None:
    with pytest.raises(BrokenDocumentError, match=r"schema version 2.*`larnn-search upgrade`"):
        decode_trial({**GOOD, "schema": 2})


def test_bytes_that_are_no_document_of_ours_do_not_stop_the_reading(study: MongoStore) -> None:
    broken = bson.encode({**GOOD, "params": {"x": "@@@@"}}).replace(b"@@@@", b"\xff\xfe\xfd\xfc")
    study._trials.insert_one(RawBSONDocument(broken))  # type: ignore[arg-type]  # raw on purpose
    far = {**GOOD, "_id": "s/1", "number": 1, "created_at": bson.DatetimeMS(2**60)}
    study._trials.insert_one(far)
    first, second = study.list_trials("s")
    assert first.params["x"] == 4 * "�"
    assert "created_at should be datetime" in second.failures[0].message


@pytest.mark.parametrize("lease", [None, "soon", 5, {"a": 1}])
def test_a_running_document_without_a_lease_is_taken_back(study: MongoStore, lease: Any) -> None:
    held = {"state": "RUNNING", "token": "x", "worker": "w", "host": "h", "failures": None}
    study._trials.insert_one({**GOOD, **held, "lease_expires_at": lease})
    assert [trial.state for trial in study.release_expired()] == [TrialState.WAITING]


def test_a_hostile_study_is_left_out_and_the_others_run(study: MongoStore) -> None:
    good = study._studies.find_one({"_id": "s"})
    assert good is not None
    for name, change in {
        "a": {"spec": {"objective": "os:system"}},
        "b": {"spec": {**good["spec"], "space": {"$where": 1}}},
        "c": {"spec": {**good["spec"], "priority": "high"}},
        "d": {"spec": {**good["spec"], "extra": 1}},
        "e": {"cutoffs": {"one": "low"}},
        "f": {"test_looks": 3},
        "g": {"state": "ODD"},
        "h": {"created_at": None},
        "i": {"spec": {**good["spec"], "seed": 1.5}},
        "j": {"spec": {**good["spec"], "fixed": 5}},
        "k": {"spec": {**good["spec"], "max_trials": True}},
        "l": {"spec": {**good["spec"], "from_studies": [5]}},
        "m": {"spec": {**good["spec"], "timeout_s": "long"}},
    }.items():
        study._studies.insert_one({**good, "_id": name, **change})
        study._trials.insert_one({**GOOD, "_id": f"{name}/0", "study": name})
        with pytest.raises(BrokenDocumentError, match=f"study '{name}'"):
            study.get_study(name)
    study.add_trials("s", None, 0, [NewTrial({"x": 0}, 1)])
    assert [found.name for found in study.list_studies()] == ["s"]
    assert [offer.study for offer in study.offers()] == ["s"]
    study.delete_study("a")
    with pytest.raises(StudyNotFoundError):
        study.get_study("a")


def test_every_document_says_its_schema_version(study: MongoStore) -> None:
    study.add_trials("s", None, 0, [NewTrial({"x": 0}, 1)])
    study.save_blob(study.reserve("s", "w", "h", "t").claim, WEIGHTS, b"weights")  # type: ignore[union-attr]  # it was added just now
    study.beat_worker(WorkerInfo("w", "h", 1))
    found: dict[str, list[Any]] = {}
    for name in study.database.list_collection_names():
        for document in study.database[name].find():
            told = document.get("metadata", document)
            version = told.get("version" if name == "meta" else "schema")
            found.setdefault(name, []).append(version)
    chunks = found.pop("blobs.chunks")  # GridFS's own; their file says it
    assert len(chunks) == 1
    assert set(found) == {"studies", "trials", "workers", "meta", "blobs.files"}
    assert all(versions == [SCHEMA_VERSION] for versions in found.values()), found


def test_a_study_of_another_version_is_refused_and_the_others_run(
    study: MongoStore, caplog: pytest.LogCaptureFixture
) -> None:
    study.create_study(dataclasses.replace(SPEC, name="ours"))
    for name in ("s", "ours"):
        study.add_trials(name, None, 0, [NewTrial({}, 1)])
    study._studies.update_one({"_id": "s"}, {"$set": {"schema": 99}})
    for read in (study.get_study, lambda name: study.reserve(name, "w", "h", "t")):
        with pytest.raises(SchemaVersionError, match=r"schema version 99.*larnn-search upgrade"):
            read("s")
    for _ in range(2):
        assert [found.name for found in study.list_studies()] == ["ours"]
        assert [offer.study for offer in study.offers()] == ["ours"]
    (told,) = caplog.messages  # once, however often workers ask
    assert "study 's' has schema version 99" in told
    assert "larnn-search upgrade" in told


def test_a_database_of_another_version_is_refused(study: MongoStore, mongo_uri: str) -> None:
    study._meta.update_one({"_id": "schema"}, {"$set": {"version": 0}})
    with pytest.raises(SchemaVersionError, match=r"the database has schema version 0"):
        MongoStore(mongo_uri, study._database.name)


def test_a_hostile_worker_is_left_out(study: MongoStore) -> None:
    worker = encode_worker(WorkerInfo("", "h", 1))
    for name, change in {
        "a": {},
        "b": {"slots": 3},
        "c": {"pid": "1"},
        "d": {"studies": 1},
    }.items():
        study._workers.insert_one(
            {"_id": name, "last_seen_at": datetime.now(UTC), **worker, **change}
        )
    assert [worker.name for worker in study.list_workers()] == ["a"]


# -- blobs ---------------------------------------------------------------------------------------


def chunks(store: MongoStore) -> int:
    return store._database["blobs.chunks"].count_documents({})


def test_old_blobs_are_deleted_and_orphans_swept(study: MongoStore) -> None:
    study.add_trials("s", None, 0, [NewTrial({}, 1), NewTrial({}, 1)])
    first, second = (study.reserve("s", "w", "h", token, 1000) for token in "ab")
    assert first is not None
    assert second is not None
    for data in (b"old", b"new"):
        study.save_blob(first.claim, CHECKPOINT, data)
    assert chunks(study) == 1
    study.save_blob(first.claim, WEIGHTS, b"kept")
    # Uploads that were cut off: of an attempt that is over, and of one that still runs.
    for claim in (first.claim, second.claim):
        study._blobs.write(f"s/log/{claim.number}/1/cutoff", b"cut")
        study._database["blobs.files"].delete_one({"_id": f"s/log/{claim.number}/1/cutoff"})
    study.finish(first.claim, Outcome(TrialState.COMPLETE, 0.5))
    assert chunks(study) == 3  # the checkpoint is gone
    assert study.sweep_blobs() == 1
    assert study.load_blob("s", 0, WEIGHTS) == b"kept"
    study.finish(second.claim, Outcome(TrialState.COMPLETE, 0.5))
    assert study.sweep_blobs() == 1
    study.delete_study("s")
    assert chunks(study) == 0


def test_a_trial_whose_blobs_are_no_mapping_keeps_no_orphan_from_being_swept(
    study: MongoStore,
) -> None:
    study.add_trials("s", None, 0, [NewTrial({}, 1)])
    study._trials.update_one({"_id": "s/0"}, {"$set": {"blobs": "text"}})
    study._blobs.write("s/log/0/1/cutoff", b"orphan")
    assert study.sweep_blobs() == 1
    assert chunks(study) == 0


def test_an_upload_that_lost_its_lease_meanwhile_leaves_nothing(
    study: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.add_trials("s", None, 0, [NewTrial({}, 1)])
    trial = study.reserve("s", "w", "h", "t", 0)
    assert trial is not None
    write = study._blobs.write

    def slow_write(key: str, data: bytes) -> None:
        write(key, data)
        study.release_expired()

    monkeypatch.setattr(study._blobs, "write", slow_write)
    with pytest.raises(LeaseLostError):
        study.save_blob(trial.claim, CHECKPOINT, b"late")
    assert chunks(study) == 0


def test_a_damaged_blob_is_named(study: MongoStore) -> None:
    study.add_trials("s", None, 0, [NewTrial({}, 1)])
    trial = study.reserve("s", "w", "h", "t", 1000)
    assert trial is not None
    study.save_blob(trial.claim, CHECKPOINT, b"data")
    study._database["blobs.chunks"].delete_many({})
    with pytest.raises(BrokenDocumentError, match="checkpoint of trial 0 of study 's' is damaged"):
        study.load_blob("s", 0, CHECKPOINT)


def test_a_checkpoint_of_200_mb_works(study: MongoStore) -> None:
    study.add_trials("s", None, 0, [NewTrial({}, 1)])
    trial = study.reserve("s", "w", "h", "t", 1000)
    assert trial is not None
    data = bytes(range(256)) * (200 * 2**20 // 256)
    study.save_blob(trial.claim, CHECKPOINT, data)
    assert study.load_blob("s", 0, CHECKPOINT) == data


# -- cost ----------------------------------------------------------------------------------------


def life(store: MongoStore, token: str) -> None:
    store.offers()
    trial = store.reserve("s", "w", "h", token, 1000)
    assert trial is not None
    store.beat(trial.claim)
    store.report(trial.claim, [Report(1, 0.5)])
    store.finish(trial.claim, Outcome(TrialState.COMPLETE, 0.5))
    store.release_expired()
    store.best_trial("s")
    store.add_trials("s", None, store._trials.count_documents({}, hint="_id_"), [NewTrial({}, 1)])


def test_no_step_of_a_trial_looks_at_more_documents_as_the_study_grows(study: MongoStore) -> None:
    many = 2000
    study.add_trials("s", None, 0, [NewTrial({"x": i}, 1) for i in range(many)])
    finished = {"$set": {"state": "COMPLETE", "loss": 1.0, "attempt": 1}}
    study._trials.update_many({"number": {"$lt": many // 2}}, finished)
    life(study, "warm")
    study._database.command("profile", 2)
    life(study, "t")
    study._database.command("profile", 0)
    counting = {"command.hint": {"$ne": "_id_"}, "ns": {"$not": {"$regex": "profile"}}}
    steps = list(study._database["system.profile"].find(counting))
    assert len(steps) >= 10
    for step in steps:
        examined = step.get("docsExamined", 0), step.get("keysExamined", 0)
        assert max(examined) <= 10, (step["command"], examined)


# -- plain values --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, {"a": [1, {"b": None}]}, "text", -0.0])
def test_plain_is_idempotent(value: Any) -> None:
    assert repr(plain(plain(value, "v"), "v")) == repr(value)


def test_a_value_within_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidValueError, match="50 levels"):
        plain(loop, "params")
