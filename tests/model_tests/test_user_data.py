"""Data that users bring, and what is refused with one clear line."""

import http.client
import io
import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pytest

from model import data
from model.config import TrialConfig
from model.data import DataError, har, uci_har, uea
from model.data.arrays import split_people
from model.training import fit


def arrays(n=30, T=8, F=2, classes=2, people=5):
    draw = np.random.default_rng(0)
    return {
        "x": draw.standard_normal((n, T, F)),
        "y": np.arange(n) % classes,
        "person": np.arange(n) // classes % people,
    }


@pytest.fixture
def save(tmp_path):
    """Write arrays to a file; returns the data set's name."""

    def write(**held):
        np.savez(tmp_path / "mine.npz", **held)
        return f"npz:{tmp_path / 'mine.npz'}"

    return write


# -- npz -------------------------------------------------------------------------------------------


def test_a_users_arrays_are_split_by_person(save):
    name = save(**arrays(), channel_names=np.array(["a-x", "a-y"]))
    loaded = data.load(name)
    assert (loaded.name, loaded.x.shape, loaded.x.dtype) == (name, (30, 8, 2), np.float32)
    assert (loaded.class_names, loaded.channel_names) == (("0", "1"), ("a-x", "a-y"))
    assert [len(loaded.split[part]) for part in ("train", "validation", "test")] == [3, 1, 1]
    assert sorted(sum(loaded.split.values(), ())) == [0, 1, 2, 3, 4]
    card = data.describe(loaded)
    assert (card.sequences, card.steps, card.channels, card.classes, card.people) == (
        30, 8, 2, 2, 5,
    )  # fmt: skip


def test_labels_and_people_may_be_text_and_lengths_differ(save):
    held = arrays()
    held["y"] = np.array(["walk", "rest"])[held["y"]]
    held["person"] = np.array(["ann", "bob", "cem", "dee", "eva"])[held["person"]]
    held["length"] = np.arange(30) % 8 + 1
    held["x"][np.arange(8) >= held["length"][:, None]] = np.nan  # nobody reads it
    loaded = data.load(save(**held))
    assert loaded.class_names == ("rest", "walk")
    assert [loaded.class_names[label] for label in loaded.y] == held["y"].tolist()
    np.testing.assert_array_equal(loaded.length, held["length"])
    config = TrialConfig.from_params({"epochs": 1, "head_size": 2, "num_layers": 1})
    assert fit(config, loaded, device="cpu", threads=1).best is not None


def test_without_people_each_class_keeps_its_last_fifths(save):
    held = arrays(n=40)
    del held["person"]
    loaded = data.load(save(**held))
    for part, expected in (("train", 24), ("validation", 8), ("test", 8)):
        rows = loaded.indices(part)
        assert np.bincount(loaded.y[rows]).tolist() == [expected / 2] * 2
    assert loaded.indices("train").max() < loaded.indices("validation").min()
    assert loaded.indices("validation").max() < loaded.indices("test").min()


def test_the_fingerprint_follows_the_file(save):
    held = arrays()
    first = data.load(save(**held)).fingerprint
    assert data.load(save(**held), 2).fingerprint == first
    held["x"][0, 0, 0] += 1
    assert data.load(save(**held)).fingerprint != first


def test_who_goes_where_does_not_hang_on_the_order():
    people = np.arange(100)
    assert split_people(people) == split_people(people[::-1].repeat(3))
    assert [len(part) for part in split_people(people).values()] == [60, 20, 20]


NAN = arrays()["x"].copy()
NAN[3, 2, 1] = np.nan
MISTAKES = {
    "NaN": ({"x": NAN}, r"x must be finite, found 1 NaN .* the first in sequence 3"),
    "too large": ({"x": np.full((30, 8, 2), 1e300)}, "x must be finite, found 480 NaN or infinite"),
    "one class": ({"y": np.ones(30, int)}, "y must hold at least 2 classes, found only 1"),
    "one person": ({"person": np.ones(30, int)}, "needs at least 3 people .* found 1"),
    "labels too few": ({"y": np.arange(29)}, r"y must have one value for each of x's 30 sequences"),
    "labels broken": ({"y": np.full(30, 0.5)}, "y must hold whole numbers or text, got dtype flo"),
    "two axes": ({"x": np.zeros((30, 8))}, r"x must be \[n, T, F\] and not empty, got .*30, 8"),
    "complex": ({"x": np.zeros((30, 8, 2), complex)}, "x must hold real numbers"),
    "length 0": ({"length": np.zeros(30, int)}, r"length must lie in 1\.\.8"),
    "length 9": ({"length": np.full(30, 9)}, r"length must lie in 1\.\.8, .* found 9\.\.9"),
    "lengths too few": ({"length": np.ones(3, int)}, "length must hold one whole number a seq"),
    "a typo": ({"persons": np.ones(30, int)}, "unknown array 'persons'; did you mean 'person'"),
    "objects": ({"y": np.array([{}] * 30)}, "must be an .npz file of numbers and text"),
    "channels": ({"channel_names": np.array(["a"])}, "x has 2 channels, but 1 have a name"),
    "class of one": ({"y": np.arange(30) // 6}, "every class needs training sequences, '"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_arrays_is_named(mistake, save):
    change, message = MISTAKES[mistake]
    held = arrays()
    if mistake == "class of one":
        held["person"] = change["y"]
    with pytest.raises(DataError, match=message):
        data.load(save(**{**held, **change}))


def test_a_file_that_is_none_is_named(tmp_path, save):
    with pytest.raises(DataError, match=r"cannot read the data file .*: No such file"):
        data.load(f"npz:{tmp_path / 'nowhere.npz'}")
    (tmp_path / "text.npz").write_text("x,y\n1,2\n")
    with pytest.raises(DataError, match=r"must be an \.npz file"):
        data.load(f"npz:{tmp_path / 'text.npz'}")
    with pytest.raises(DataError, match="must hold an array 'y', found x"):
        data.load(save(x=np.zeros((3, 2, 1))))


def test_a_damaged_file_is_named(tmp_path):
    file = tmp_path / "mine.npz"
    np.savez_compressed(file, **arrays())
    whole, intact, refused = file.read_bytes(), data.load(f"npz:{file}"), []
    for place in range(60, len(whole), 97):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            loaded = data.load(f"npz:{file}")
        except DataError as error:
            refused.append(str(error))
        else:  # a byte that nobody needs
            np.testing.assert_array_equal(loaded.x, intact.x)
            np.testing.assert_array_equal(loaded.y, intact.y)
            np.testing.assert_array_equal(loaded.person, intact.person)
    assert refused
    assert all(str(file) in message for message in refused)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("npz", "this data set is written npz:PATH, got 'npz'"),
        ("har:x", "this data set is written har, got 'har:x'"),
        ("uea:", "written uea:NAME"),
        ("uea:../x", "a name like BasicMotions"),
        ("uhci-har", "unknown data set 'uhci-har'; did you mean 'uci-har'"),
    ],
)
def test_a_name_that_is_none_is_answered(name, message):
    with pytest.raises(DataError, match=message):
        data.load(name)


# -- uci-har ---------------------------------------------------------------------------------------

PEOPLE = {"train": (1, 5), "test": (2,)}


@pytest.fixture
def published(tmp_path):
    """A small made-up folder in UCI's layout: 6 windows of 4 steps for each person."""
    draw = np.random.default_rng(0)
    for part, people in PEOPLE.items():
        folder = tmp_path / uci_har.FOLDER / part
        (folder / "Inertial Signals").mkdir(parents=True)
        n = 6 * len(people)
        for name in uci_har.SIGNALS:
            rows = draw.standard_normal((n, 4))
            np.savetxt(folder / "Inertial Signals" / f"{name}_{part}.txt", rows, fmt="%16.7e")
        np.savetxt(folder / f"y_{part}.txt", np.arange(n) % 6 + 1, fmt="%d")
        np.savetxt(folder / f"subject_{part}.txt", np.repeat(people, 6), fmt="%d")
    return tmp_path


def zipped(folder, target):
    with zipfile.ZipFile(target, "w") as file:
        for path in sorted(folder.rglob("*.txt")):
            file.write(path, path.relative_to(folder))
    return target


def test_uci_har_is_the_same_from_a_folder_a_zip_and_a_zip_in_a_zip(
    published, tmp_path, monkeypatch
):
    folder = data.load(f"uci-har:{published / uci_har.FOLDER}")
    assert folder.x.shape == (18, 4, 9)
    assert (folder.class_names, folder.channel_names) == (har.ACTIVITIES, har.CHANNELS)
    assert folder.y.tolist() == [0, 1, 2, 3, 4, 5] * 3
    assert folder.person.tolist() == [1] * 6 + [5] * 6 + [2] * 6
    assert [len(folder.indices(part)) for part in ("train", "validation", "test")] == [6, 6, 6]
    file = published / uci_har.FOLDER / "train/Inertial Signals/body_gyro_y_train.txt"
    np.testing.assert_allclose(folder.x[:12, :, 4], np.loadtxt(file), rtol=1e-6)
    inner = zipped(published, tmp_path / "inner.zip")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as outer:
        outer.write(inner, "UCI HAR Dataset.zip")
    for place in (published, inner, tmp_path / "outer.zip"):
        monkeypatch.setenv(uci_har.PLACE, str(place))
        again = data.load("uci-har")
        np.testing.assert_array_equal(again.x, folder.x)
        assert again.fingerprint == folder.fingerprint


def test_a_damaged_zip_is_named(published, tmp_path):
    place, outer = zipped(published, tmp_path / "uci.zip"), tmp_path / "outer.zip"
    whole = bytearray(place.read_bytes())
    whole[whole.index(b"body_acc_x") + 90] ^= 0x7F
    place.write_bytes(whole)
    with pytest.raises(DataError, match=r"uci\.zip: cannot read .*Bad CRC"):
        data.load(f"uci-har:{place}")
    with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{uci_har.FOLDER}.zip", whole)
    whole = bytearray(outer.read_bytes())
    whole[60:80] = bytes(20)
    outer.write_bytes(whole)
    with pytest.raises(DataError, match="must be UCI's folder or zip, and is none"):
        data.load(f"uci-har:{outer}")


def test_uci_har_is_downloaded_once(published, tmp_path, monkeypatch):
    asked = []

    def answer(url, timeout):
        asked.append(url)
        return io.BytesIO(zipped(published, tmp_path / "uci.zip").read_bytes())

    monkeypatch.delenv(uci_har.PLACE, raising=False)
    monkeypatch.setenv("LARNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", answer)
    assert not uci_har.is_present()
    assert len({data.load("uci-har").fingerprint for _ in range(2)}) == 1
    assert asked == [uci_har.URL]
    assert uci_har.is_present()


def test_offline_says_what_to_do(tmp_path, monkeypatch):
    def refuse(url, timeout):
        raise urllib.error.URLError("no route to host")

    monkeypatch.delenv(uci_har.PLACE, raising=False)
    monkeypatch.setenv("LARNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(DataError, match=r"no route to host.* fetch https://.* set LARNN_UCI_HAR"):
        data.load("uci-har")


@pytest.mark.parametrize("cut", ["told", "not told"])
def test_a_download_that_is_cut_off_is_not_kept(cut, published, tmp_path, monkeypatch):
    whole = zipped(published, tmp_path / "uci.zip").read_bytes()

    class Answer(io.BytesIO):
        def read(self):
            if cut == "told":
                raise http.client.IncompleteRead(whole[:100], len(whole) - 100)
            return whole[:-100]

    monkeypatch.delenv(uci_har.PLACE, raising=False)
    monkeypatch.setenv("LARNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: Answer())
    with pytest.raises(DataError, match=r"cannot be downloaded \(.*\): fetch https://"):
        data.load("uci-har")
    assert not uci_har.is_present()
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_place_that_is_none_holds_no_data(tmp_path, monkeypatch):
    monkeypatch.setenv(uci_har.PLACE, str(tmp_path / "nope"))
    assert not uci_har.is_present()


def test_a_folder_that_is_not_ucis_is_named(published):
    root = published / uci_har.FOLDER

    def refused(message):
        with pytest.raises(DataError, match=message):
            data.load(f"uci-har:{published}")

    (root / "test" / "subject_test.txt").write_text("1\n" * 6)
    refused("people of 'test' must be UCI's 2, 4, .* found person 1")
    (root / "test" / "y_test.txt").write_text("1\n")
    refused("must have one line a window")
    (root / "test" / "y_test.txt").write_text("one\n")
    refused("cannot read test/y_test.txt")
    (root / "train" / "y_train.txt").unlink()
    refused("cannot read train/y_train.txt")
    with pytest.raises(DataError, match="there is no"):
        data.load(f"uci-har:{published / 'nowhere'}")
    with pytest.raises(DataError, match="must hold UCI HAR's folders"):
        data.load(f"uci-har:{root / 'train'}")
    with pytest.raises(DataError, match="must be UCI's folder or zip, and is none"):
        data.load(f"uci-har:{root / 'test' / 'y_test.txt'}")


# -- the archive -----------------------------------------------------------------------------------

ARCHIVE = {
    # name: shape, sequences by part, class names, classes in each of which many are tested
    "BasicMotions": ((80, 100, 6), (32, 8, 40), ("badminton", "running", "standing", "walking")),
    "JapaneseVowels": ((640, 29, 12), (216, 54, 370), tuple("123456789")),
}


@pytest.mark.parametrize("name", ARCHIVE)
def test_the_archives_own_test_part_is_kept(name):
    pytest.importorskip("aeon", reason="the extra 'uea' is not installed")
    shape, sizes, classes = ARCHIVE[name]
    loaded = data.load(f"uea:{name}")
    assert loaded.x.shape == shape
    assert loaded.class_names == classes
    assert tuple(len(loaded.indices(p)) for p in ("train", "validation", "test")) == sizes
    card = next(card for card in data.available() if card.name == loaded.name)
    found = data.describe(loaded)
    for field in ("sequences", "steps", "channels", "classes", "people", "licence", "source"):
        assert getattr(card, field) == getattr(found, field)
    assert card.present


def test_sequences_of_varying_length_train():
    pytest.importorskip("aeon", reason="the extra 'uea' is not installed")
    vowels = data.load("uea:JapaneseVowels")
    assert (vowels.length.min(), vowels.length.max()) == (7, 29)
    settings = {"epochs": 4, "batch_size": 32, "learning_rate": 0.03, "num_layers": 1}
    for norm in ("layer", "batch"):
        config = TrialConfig.from_params({**settings, "norm": norm})
        assert (
            fit(config, vowels, device="cpu", threads=1).best.validation_accuracy > 0.7
        )  # chance: 0.11


def test_an_archive_that_cannot_be_reached_says_what_to_do(monkeypatch, tmp_path):
    datasets = pytest.importorskip("aeon.datasets", reason="the extra 'uea' is not installed")

    def refuse(name, extract_path):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("LARNN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(datasets, "load_classification", refuse)
    with pytest.raises(DataError, match=r"cannot be downloaded .*put Epilepsy_TRAIN\.ts and"):
        data.load("uea:Epilepsy")


def test_a_download_of_the_archive_replaces_what_one_left_half_done(monkeypatch, tmp_path):
    datasets = pytest.importorskip("aeon.datasets", reason="the extra 'uea' is not installed")
    shipped, _ = uea._files("BasicMotions")

    def fetch(name, extract_path):
        assert not (place / "Epilepsy_TEST.ts").exists()
        folder = Path(extract_path) / name
        folder.mkdir()
        for part in ("TRAIN", "TEST"):
            text = (shipped.parent / f"BasicMotions_{part}.ts").read_bytes()
            (folder / f"Epilepsy_{part}.ts").write_bytes(text)

    place = tmp_path / "uea" / "Epilepsy"
    place.mkdir(parents=True)
    (place / "Epilepsy_TRAIN.ts").write_text("half of it")
    monkeypatch.setenv("LARNN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(datasets, "load_classification", fetch)
    assert data.load("uea:Epilepsy").x.shape == data.load("uea:BasicMotions").x.shape
    assert sorted(path.name for path in place.iterdir()) == [
        "Epilepsy_TEST.ts",
        "Epilepsy_TRAIN.ts",
    ]


def test_a_name_that_the_archive_does_not_have_is_unknown():
    pytest.importorskip("aeon", reason="the extra 'uea' is not installed")
    with pytest.raises(DataError, match=r"no data set 'Epilepsi'; did you mean 'Epilepsy'\?"):
        data.load("uea:Epilepsi")


def test_without_aeon_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'larnn-search\[uea\]'"):
        data.load("uea:BasicMotions")
